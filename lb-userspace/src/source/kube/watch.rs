//! Follows one kind of object: lists, then watches, and lists again where the watch cannot go on.
//!
//! Invariants: a listing is told as a whole, with what is gone since the one before; a watch goes on
//! from the last version that was told.

use std::{collections::HashSet, hash::BuildHasher as _, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    Kind,
    connection::Connection,
    trouble::{Backoff, Class, Trouble},
};
use crate::model::{Event, ObjectName};

/// How many objects are asked for at once in a listing.
const PAGE: usize = 500;
/// How long a watch may be silent: a server sends a bookmark a minute.
const SILENCE: Duration = Duration::from_secs(100);
/// How long a watch lasts, in seconds, and how much longer at random.
const WATCH: (u64, u64) = (300, 300);
/// A watch that ends earlier than this without a word is no good.
const TOO_SHORT: Duration = Duration::from_secs(1);

/// What a watch says.
#[derive(Debug)]
pub(super) enum Said {
    /// The server answered: all is well.
    Heard,
    /// The listing is complete: how many objects there are, and what that means.
    Listed(usize, Vec<Event>),
    /// Something changed; how many objects there are now.
    Changed(usize, Vec<Event>),
    /// It does not go on as it should. It will be tried again.
    Ill(Trouble),
}

/// A kind of object to be followed.
pub(super) struct Resource<T> {
    pub(super) kind: Kind,
    /// Path of the collection.
    pub(super) path: &'static str,
    /// Selectors, as parts of a query.
    pub(super) selectors: String,
    pub(super) metadata: fn(&T) -> &ObjectMeta,
    /// What an object means; an error when nothing of it can be used.
    pub(super) put: fn(&T) -> Result<Event, String>,
    /// What it means that an object is gone.
    pub(super) delete: fn(ObjectName) -> Event,
}

/// Why a step ended.
pub(super) enum Stop {
    /// The version is too old: everything must be listed anew.
    Gone,
    /// Something is wrong.
    Trouble(Trouble),
    /// Nobody listens.
    Deaf,
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// Follows one kind of object until nobody listens.
pub(super) struct Follower<T> {
    pub(super) resource: Resource<T>,
    connection: Connection,
    sender: mpsc::Sender<(Kind, Said)>,
    pub(super) known: HashSet<ObjectName>,
    /// Objects of which nothing can be used.
    pub(super) bad: HashSet<ObjectName>,
    /// The version that was told last; `None` when everything must be listed.
    pub(super) version: Option<String>,
    /// Whether the next listing shall come in one piece.
    whole: bool,
}

impl<T: DeserializeOwned> Follower<T> {
    /// Begins with a listing, once it runs.
    pub(super) fn new(
        resource: Resource<T>,
        connection: Connection,
        sender: mpsc::Sender<(Kind, Said)>,
    ) -> Self {
        let (known, bad) = Default::default();
        Self { resource, connection, sender, known, bad, version: None, whole: false }
    }

    /// Follows until nobody listens.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut gone = 0_u32;
        loop {
            let stop = match self.version.clone() {
                None => self.list().await,
                Some(version) => {
                    let result = self.watch(&version).await;
                    if self.version.as_ref() != Some(&version) || result.is_ok() {
                        // It worked for a while.
                        backoff.reset();
                        gone = 0;
                    }
                    result
                }
            };
            let trouble = match stop {
                Ok(()) => continue,
                Err(Stop::Deaf) => return,
                Err(Stop::Gone) => {
                    self.version = None;
                    gone += 1;
                    // Once is what happens after an outage.
                    if gone == 1 {
                        continue;
                    }
                    Trouble::new(Class::Failing, "it answers 410 to every version that it names")
                }
                Err(Stop::Trouble(trouble)) => trouble,
            };
            let pause = backoff.after(&trouble, random());
            let renew = matches!(trouble.class, Class::Unauthorized | Class::Untrusted);
            if self.say(Said::Ill(trouble)).await.is_err() {
                return;
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.sender.closed() => return,
            }
            if renew {
                self.connection.renew().await;
            }
        }
    }

    async fn say(&self, said: Said) -> Result<(), Stop> {
        self.sender.send((self.resource.kind, said)).await.map_err(|_closed| Stop::Deaf)
    }

    /// Asks, and says so when the answer takes long.
    async fn ask(&self, query: &str) -> Result<super::connection::Answer, Stop> {
        let Resource { path, selectors, .. } = &self.resource;
        let slow = async || {
            let trouble = Trouble::new(Class::Slow, "it takes long to answer");
            // Whether anybody listens shows at the next word.
            let _heard = self.say(Said::Ill(trouble)).await;
        };
        let target = format!("{path}?{selectors}{query}");
        tokio::select! {
            answer = self.connection.get(&target, slow) => Ok(answer?),
            () = self.sender.closed() => Err(Stop::Deaf),
        }
    }

    /// Lists everything, page by page.
    async fn list(&mut self) -> Result<(), Stop> {
        let mut names = HashSet::new();
        let mut events = Vec::new();
        let mut query = match std::mem::take(&mut self.whole) {
            true => String::new(),
            false => format!("&limit={PAGE}"),
        };
        let version = loop {
            let body = match self.ask(&query).await {
                Ok(answer) => answer.all().await?,
                Err(Stop::Trouble(trouble)) if expired(&trouble) && !names.is_empty() => {
                    // The listing took longer than the server remembers: without pages then.
                    self.whole = true;
                    return Ok(());
                }
                Err(stop) => return Err(stop),
            };
            let metadata = self.page(&body, &mut names, &mut events)?;
            match metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => query = format!("&limit={PAGE}&continue={}", escape(&token)),
                None => break metadata.resource_version,
            }
        };
        let Some(version) = version.filter(|version| !version.is_empty()) else {
            return Err(nonsense("a listing has no version").into());
        };
        let gone: Vec<ObjectName> = self.known.difference(&names).cloned().collect();
        let mut told = Vec::with_capacity(gone.len() + events.len());
        for name in gone {
            self.good(&name, &mut told);
            told.push((self.resource.delete)(name));
        }
        let events = [told, events].concat();
        self.known = names;
        self.version = Some(version);
        self.say(Said::Listed(self.known.len(), events)).await
    }

    /// Watches from `version` on until the watch ends.
    async fn watch(&mut self, version: &str) -> Result<(), Stop> {
        let random_seconds = random() * Duration::from_secs(WATCH.1).as_secs_f64();
        let lasts = Duration::from_secs(WATCH.0) + Duration::from_secs_f64(random_seconds);
        let query = format!(
            "&watch=true&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={}",
            escape(version),
            lasts.as_secs()
        );
        let begin = Instant::now();
        let mut answer = match self.ask(&query).await {
            Err(Stop::Trouble(trouble)) if expired(&trouble) => return Err(Stop::Gone),
            answer => answer?,
        };
        self.say(Said::Heard).await?;
        let mut rest = Vec::new();
        loop {
            let piece = tokio::select! {
                piece = answer.piece(lasts * 2) => piece?,
                // Whether the server is well shows when it is asked again.
                () = sleep(SILENCE) => None,
                () = self.sender.closed() => return Err(Stop::Deaf),
            };
            let Some(piece) = piece else { break };
            rest.extend(piece);
            let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
            let lines: Vec<u8> = rest.drain(..=end).collect();
            self.lines(&lines).await?;
        }
        if begin.elapsed() < TOO_SHORT && self.version.as_deref() == Some(version) {
            return Err(nonsense("it ends every watch at once").into());
        }
        Ok(())
    }

    /// Takes in complete lines.
    async fn lines(&mut self, lines: &[u8]) -> Result<(), Stop> {
        let mut events = Vec::new();
        let mut version = None;
        let mut end = Ok(());
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match self.line(line, &mut events) {
                Ok(told) => version = told.or(version),
                Err(stop) => {
                    end = Err(stop);
                    break;
                }
            }
        }
        let said =
            if events.is_empty() { Said::Heard } else { Said::Changed(self.known.len(), events) };
        self.say(said).await?;
        self.version = version.or(self.version.take());
        end
    }
}

/// Whether the server no longer knows the version, or the page, that it was asked for.
fn expired(trouble: &Trouble) -> bool {
    trouble.status == Some(410)
}

pub(super) fn nonsense(text: &str) -> Trouble {
    Trouble::new(Class::Failing, text)
}

/// A number in 0..1: not secret, only different from that of other nodes.
fn random() -> f64 {
    let hash = std::hash::RandomState::new().hash_one(Instant::now());
    let bits = u32::try_from(hash >> 32).unwrap_or_default();
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// Escapes what has a meaning of its own in a query.
pub(super) fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => {
                let _infallible = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}
