//! What can be wrong with the API server, and how long to wait before it is asked again.
//!
//! Invariant: an API server that is away is asked at least once a second, so that what changed
//! meanwhile is programmed as soon as it is back; one that refuses us is left in peace.

use std::{error::Error as StdError, fmt, io, time::Duration};

/// Kinds of trouble, the one to name first last: where several watches are in trouble, the greatest
/// says most about why.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// It takes long to answer.
    Slow,
    /// It says that we ask too often (429).
    Throttled,
    /// It answers with an error of its own (5xx), or not in the way of an API server.
    Failing,
    /// There is no connection.
    Unreachable,
    /// The connection cannot be secured: certificates.
    Untrusted,
    /// We may not read what we must read (403).
    Forbidden,
    /// It does not know us (401).
    Unauthorized,
}

impl Class {
    /// One word for tables, JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Throttled => "throttled",
            Self::Failing => "failing",
            Self::Unreachable => "unreachable",
            Self::Untrusted => "untrusted",
            Self::Forbidden => "forbidden",
            Self::Unauthorized => "unauthorized",
        }
    }

    /// The longest pause between two attempts.
    const fn patience(self) -> Duration {
        match self {
            Self::Slow | Self::Unreachable => Duration::from_secs(1),
            // An API server that starts answers like this for a moment.
            Self::Failing => Duration::from_secs(2),
            Self::Untrusted => Duration::from_secs(10),
            Self::Throttled | Self::Forbidden | Self::Unauthorized => Duration::from_secs(30),
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that is wrong with the API server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trouble {
    /// What kind.
    pub class: Class,
    /// In words.
    pub text: String,
    /// The status of the answer, where there was one.
    pub status: Option<u16>,
    /// How long the server itself asks us to wait.
    pub wait: Option<Duration>,
}

impl Trouble {
    /// Trouble with these words.
    pub(super) fn new(class: Class, text: impl Into<String>) -> Self {
        Self { class, text: text.into(), status: None, wait: None }
    }

    /// What an answer with this status means, `message` being what the server says about it.
    pub(super) fn of_status(status: u16, message: &str) -> Self {
        let message = message.trim();
        let (class, advice) = match status {
            401 => (Class::Unauthorized, ": the token or certificate is wrong or has expired"),
            403 => (Class::Forbidden, ": give the agent the rights of system:node-proxier"),
            429 => (Class::Throttled, ""),
            _ => (Class::Failing, ""),
        };
        let said = if message.is_empty() { String::new() } else { format!(" ({message})") };
        let text = format!("it answers {status}{said}{advice}");
        Self { status: Some(status), ..Self::new(class, text) }
    }

    /// What an error on the way to the server means.
    pub(super) fn of_error(error: &(dyn StdError + 'static)) -> Self {
        let mut deepest = error;
        let mut text = error.to_string();
        let (mut tls, mut auth) = (is_tls(error), is_auth(error));
        while let Some(cause) = deepest.source() {
            deepest = cause;
            tls |= is_tls(cause);
            auth |= is_auth(cause);
            text = cause.to_string();
        }
        // An io::Error may carry another error without naming it as its source.
        if let Some(inner) = deepest.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            tls |= inner.to_string().contains("certificate");
        }
        let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
        match (auth, tls) {
            (true, _) => Self::new(Class::Unauthorized, format!("no credentials: {text}")),
            (false, true) => Self::new(Class::Untrusted, text),
            (false, false) => Self::new(Class::Unreachable, text),
        }
    }
}

fn is_auth(error: &(dyn StdError + 'static)) -> bool {
    error.is::<kube::client::AuthError>()
}

fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    // The type is not ours to name without depending on the TLS library; the words are its own.
    let text = error.to_string();
    text.contains("certificate") || text.contains("received fatal alert")
}

/// How long to wait before the next attempt.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    class: Option<Class>,
    pause: Duration,
}

/// The first pause.
const FIRST: Duration = Duration::from_millis(100);

impl Backoff {
    /// All is well again.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The pause after this trouble: it doubles while the trouble is the same. `random` is in 0..1.
    pub(super) fn after(&mut self, trouble: &Trouble, random: f64) -> Duration {
        self.pause = match self.class == Some(trouble.class) {
            true => (self.pause * 2).min(trouble.class.patience()),
            false => FIRST,
        };
        self.class = Some(trouble.class);
        // All nodes lose the API server at one moment; they shall not come back at one.
        let jittered = self.pause.mul_f64(random.mul_add(0.5, 0.5));
        let asked = trouble.wait.unwrap_or_default().min(Duration::from_secs(60));
        jittered.max(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(class: Class, random: f64) -> Vec<Duration> {
        let mut backoff = Backoff::default();
        (0..12).map(|_| backoff.after(&Trouble::new(class, "x"), random)).collect()
    }

    #[test]
    fn a_server_that_is_away_is_asked_every_second_and_one_that_refuses_us_is_not() {
        let away = pauses(Class::Unreachable, 0.999);
        assert!(away.is_sorted() && away[11] <= Duration::from_secs(1), "{away:?}");
        let refusing = pauses(Class::Unauthorized, 0.999);
        assert!(refusing[11] > Duration::from_secs(29), "{refusing:?}");
        assert!(refusing[0] <= FIRST, "the first may be a coincidence");
    }

    #[test]
    fn nodes_do_not_come_back_at_one_moment() {
        let (early, late) = (pauses(Class::Failing, 0.0), pauses(Class::Failing, 0.999));
        assert!(early[11] < late[11].mul_f64(0.6), "{early:?} {late:?}");
    }

    #[test]
    fn another_trouble_begins_anew_and_the_wish_of_the_server_counts() {
        let mut backoff = Backoff::default();
        for _ in 0..9 {
            let _pause = backoff.after(&Trouble::new(Class::Forbidden, "x"), 0.5);
        }
        assert!(backoff.after(&Trouble::new(Class::Unreachable, "x"), 0.5) <= FIRST);
        let throttled =
            Trouble { wait: Some(Duration::from_secs(7)), ..Trouble::of_status(429, "slow down") };
        assert_eq!(backoff.after(&throttled, 0.5), Duration::from_secs(7));
    }

    #[test]
    fn the_cause_is_told_and_not_the_layers_above_it() {
        #[derive(Debug, thiserror::Error)]
        #[error("client error (Connect)")]
        struct Outer(#[source] io::Error);
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        let trouble = Trouble::of_error(&Outer(refused));
        assert_eq!(trouble, Trouble::new(Class::Unreachable, "connection refused"));
        let tls = io::Error::other("invalid peer certificate: UnknownIssuer");
        assert_eq!(Trouble::of_error(&Outer(tls)).class, Class::Untrusted);
    }
}
