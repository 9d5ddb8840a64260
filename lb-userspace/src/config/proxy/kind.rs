//! What values settings of kube-proxy have, how they are written, and which are allowed.

use std::{net::IpAddr, time::Duration};

use serde_json::Value;

/// A kind of value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// true or false.
    Bool,
    /// A whole number within bounds.
    Int {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// A number.
    Number,
    /// Any text.
    Text,
    /// One of these words; the empty one stands for what is not set.
    Choice(&'static [&'static str]),
    /// Go's notation of a time that is not negative.
    Duration,
    /// Likewise; zero stands for what is not set.
    Period,
    /// A number of bytes, with a suffix maybe.
    Quantity,
    /// An IP address.
    Ip,
    /// An address with a port, or without one for the usual one.
    Served,
    /// A list of words; separated by commas in a flag.
    List,
    /// A CIDR, or two of different families, separated by a comma.
    Pair,
    /// Names of features with true or false.
    Gates,
}

impl Kind {
    pub(super) const fn int(min: i64, max: i64) -> Self {
        Self::Int { min, max }
    }

    /// What is allowed, in words.
    pub fn allowed(self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Int { min, max } => format!("a whole number from {min} to {max}"),
            Self::Number => "a number".into(),
            Self::Text => "text".into(),
            Self::Choice(words) => {
                let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
                format!("one of {}", quoted.join(", "))
            }
            Self::Duration | Self::Period => "a time like 30s, 1m30s or 24h".into(),
            Self::Quantity => "a number of bytes like 0 or 512Ki".into(),
            Self::Ip => "an IP address".into(),
            Self::Served => "ADDR:PORT like 127.0.0.1:10249 or [::1]:10249".into(),
            Self::List => "a list of words".into(),
            Self::Pair => "a CIDR, or one of each family like 10.0.0.0/8,2001:db8::/64".into(),
            Self::Gates => "names of features, each with true or false".into(),
        }
    }

    /// Whether a flag that is repeated adds to what it said before, rather than taking its place.
    pub(super) const fn adds_up(self) -> bool {
        matches!(self, Self::List | Self::Gates)
    }

    /// The value of a flag, as the file would have it; `None` when it cannot be one.
    pub fn typed(self, text: &str) -> Option<Value> {
        Some(match self {
            Self::Bool => Value::Bool(text.trim().parse().ok()?),
            Self::Int { .. } => Value::from(text.trim().parse::<i64>().ok()?),
            Self::Number => match text.trim().parse::<i64>() {
                Ok(whole) => Value::from(whole),
                Err(_) => Value::from(text.trim().parse::<f64>().ok()?),
            },
            Self::List => words(text).map(Value::from).collect(),
            Self::Gates => Value::Object(
                words(text)
                    .map(|word| {
                        let (name, on) = word.split_once('=')?;
                        Some((name.to_owned(), Value::Bool(on.parse().ok()?)))
                    })
                    .collect::<Option<_>>()?,
            ),
            Self::Text
            | Self::Choice(_)
            | Self::Duration
            | Self::Period
            | Self::Quantity
            | Self::Ip
            | Self::Served
            | Self::Pair => Value::from(text),
        })
    }

    /// What is wrong with a value, if anything.
    pub fn problem(self, value: &Value) -> Option<&'static str> {
        let good = match self {
            Self::Bool => value.is_boolean(),
            Self::Int { min, max } => match value.as_i64() {
                Some(number) if (min..=max).contains(&number) => true,
                Some(_) => return Some("out of range"),
                None => false,
            },
            Self::Number => value.is_number(),
            Self::Text => value.is_string(),
            Self::Choice(words) => match value.as_str() {
                Some(word) if words.contains(&word) => true,
                Some(_) => return Some("not supported"),
                None => false,
            },
            Self::Duration | Self::Period => match duration(value) {
                Some(Signed { negative: true, .. }) => return Some("less than zero"),
                Some(_) => true,
                None => false,
            },
            Self::Quantity => value.as_str().is_some_and(is_quantity) || value.is_u64(),
            Self::Ip => value.as_str().is_some_and(|text| text.parse::<IpAddr>().is_ok()),
            // Which addresses can be served is the configuration's to say.
            Self::Served => value.is_string(),
            Self::List => match value.as_array() {
                Some(items) => items.iter().all(Value::is_string),
                None => false,
            },
            Self::Pair => match value.as_str() {
                Some(text) => return pair_problem(text),
                None => false,
            },
            Self::Gates => match value.as_object() {
                Some(gates) => gates.values().all(Value::is_boolean),
                None => false,
            },
        };
        (!good).then_some("of the wrong kind")
    }

    /// Whether this value stands for none at all, as the zero of Go's type does.
    pub fn is_unset(self, value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::String(text) if text.is_empty() => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::String(_) | Value::Number(_) => match self {
                Self::Duration | Self::Period => {
                    duration(value).is_some_and(|time| time.value == Duration::ZERO)
                }
                Self::Number => value.as_f64() == Some(0.0),
                Self::Quantity => value.as_str() == Some("0") || value.as_u64() == Some(0),
                Self::Bool
                | Self::Int { .. }
                | Self::Text
                | Self::Choice(_)
                | Self::Ip
                | Self::Served
                | Self::List
                | Self::Pair
                | Self::Gates => false,
            },
            Value::Bool(_) => false,
        }
    }
}

/// A time that may be negative.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Signed {
    negative: bool,
    value: Duration,
}

/// The time that a value is: in Go's notation, or in nanoseconds.
pub fn time(value: &Value) -> Option<Duration> {
    duration(value).filter(|time| !time.negative).map(|time| time.value)
}

fn duration(value: &Value) -> Option<Signed> {
    match value {
        Value::String(text) => parse(text),
        Value::Number(number) => {
            let nanos = number.as_i64()?;
            let value = Duration::from_nanos(nanos.unsigned_abs());
            Some(Signed { negative: nanos < 0, value })
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Go's notation: `1h2m3.5s`, `-30s`, `0`.
fn parse(text: &str) -> Option<Signed> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Signed { negative: false, value: Duration::ZERO });
    }
    let mut total = Duration::ZERO;
    let mut any = false;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let count: f64 = rest.get(..number)?.parse().ok()?;
        rest = rest.get(number..)?;
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match rest.get(..unit)? {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        rest = rest.get(unit..)?;
        total = total.checked_add(Duration::try_from_secs_f64(count * seconds).ok()?)?;
        any = true;
    }
    any.then_some(Signed { negative: negative && total > Duration::ZERO, value: total })
}

fn is_quantity(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffixes = ["", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"];
    digits.parse::<f64>().is_ok_and(|number| number >= 0.0)
        && suffixes.contains(&text.get(digits.len()..).unwrap_or_default())
}

fn pair_problem(text: &str) -> Option<&'static str> {
    let cidrs: Option<Vec<IpAddr>> = text.split(',').map(|cidr| network(cidr.trim())).collect();
    match cidrs.as_deref() {
        Some([_]) => None,
        Some([one, other]) if one.is_ipv4() != other.is_ipv4() => None,
        Some([_, _]) => Some("two networks of the same family"),
        Some(_) => Some("more than two networks"),
        None => Some("not a CIDR"),
    }
}

/// The address of a CIDR.
fn network(cidr: &str) -> Option<IpAddr> {
    let (ip, length) = cidr.split_once('/')?;
    let ip: IpAddr = ip.parse().ok()?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    length.parse::<u8>().ok().filter(|length| *length <= most).map(|_| ip)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_writes_them() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("30s", 30_000),
            ("1h0m0s", 3_600_000),
            ("1m30.5s", 90_500),
            ("250ms", 250),
            ("+2h", 7_200_000),
        ] {
            assert_eq!(time(&Value::from(text)), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "30", "s", "1x", "1h 3m", "-5s", "h1", "99999999999999999999h"] {
            assert_eq!(time(&Value::from(text)), None, "{text}");
        }
        assert_eq!(time(&Value::from(5_000_000_000_i64)), Some(Duration::from_secs(5)));
    }

    #[test]
    fn pairs_are_of_two_families() {
        let problem = |text: &str| Kind::Pair.problem(&Value::from(text));
        assert_eq!(problem("10.244.0.0/16"), None);
        assert_eq!(problem("10.244.0.0/16,fd44::/48"), None);
        assert_eq!(problem("10.0.0.0/8,10.1.0.0/16"), Some("two networks of the same family"));
        assert_eq!(problem("10.0.0.0/8,::/0,10.0.0.0/8"), Some("more than two networks"));
        assert_eq!(problem("10.0.0.0/33"), Some("not a CIDR"));
        assert_eq!(problem("pods"), Some("not a CIDR"));
    }

    #[test]
    fn zeros_of_kubeadm_stand_for_nothing() {
        for (kind, text) in [
            (Kind::Duration, "0s"),
            (Kind::Period, "0"),
            (Kind::Text, ""),
            (Kind::Served, ""),
            (Kind::Quantity, "0"),
        ] {
            assert!(kind.is_unset(&Value::from(text)), "{kind:?}");
        }
        assert!(Kind::Number.is_unset(&Value::from(0)));
        assert!(!Kind::Bool.is_unset(&Value::from(false)));
        assert!(!Kind::int(0, 9).is_unset(&Value::from(0)));
    }
}
