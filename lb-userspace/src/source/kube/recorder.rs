//! Events of the Kubernetes API: what an operator finds by `kubectl describe`.
//!
//! Invariants: whoever has something to tell never waits; however much goes wrong, few requests are
//! made; and the same thing told by all nodes of a cluster is one event, because its name is made of
//! what it says.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{Connection, trouble::Class};
use crate::model::ObjectName;

/// How many notes wait for the API server before new ones are dropped.
const BACKLOG: usize = 64;
/// How many events are sent at once, and how long until one more may be.
const BUDGET: (u32, Duration) = (25, Duration::from_secs(5));
/// How long the same is not told again.
const SAME: Duration = Duration::from_secs(60);
/// How many different events are remembered.
const MEMORY: usize = 1024;

/// What a note is about.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum About {
    /// This node.
    Node,
    /// A Service, and its UID.
    Service(ObjectName, Option<Arc<str>>),
}

/// Something to tell.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Note {
    /// What it is about.
    pub about: About,
    /// Whether something is wrong.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// What was being done, in one word.
    pub action: &'static str,
    /// In words.
    pub text: String,
}

enum Message {
    Note(Note),
    /// Everything before this was sent, or given up.
    Flush(oneshot::Sender<()>),
}

/// Takes notes and sends them as events.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Message>,
}

impl Recorder {
    /// Sends to this API server, in a task that ends with the last recorder.
    pub fn start(connection: Connection, node_name: &str) -> Self {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let task = Task {
            connection,
            node_name: node_name.to_owned(),
            sent: HashMap::new(),
            budget: Budget::new(Instant::now()),
            quiet: false,
        };
        let _task = tokio::spawn(task.run(receiver));
        Self { sender }
    }

    /// Tells something, or nothing while too much else waits to be told.
    pub fn note(&self, note: Note) {
        if let Err(error) = self.sender.try_send(Message::Note(note)) {
            tracing::debug!(%error, "an event is not sent");
        }
    }

    /// Waits until what was noted is sent, but not for long.
    pub async fn flush(&self, patience: Duration) {
        let (done, wait) = oneshot::channel();
        let flush = async {
            if self.sender.send(Message::Flush(done)).await.is_ok() {
                // An error means that there is no task to wait for.
                let _done = wait.await;
            }
        };
        let _elapsed = timeout(patience, flush).await.is_err();
    }
}

struct Task {
    connection: Connection,
    node_name: String,
    /// What was sent: where it is, how often it was noted, and when it was told last.
    sent: HashMap<Note, (String, u32, Instant)>,
    budget: Budget,
    /// Whether it was logged that events are refused.
    quiet: bool,
}

impl Task {
    async fn run(mut self, mut receiver: mpsc::Receiver<Message>) {
        while let Some(message) = receiver.recv().await {
            match message {
                Message::Note(note) => self.tell(note, Instant::now()).await,
                Message::Flush(done) => {
                    // Whoever asked may have lost patience.
                    let _gone = done.send(()).is_err();
                }
            }
        }
    }

    async fn tell(&mut self, note: Note, now: Instant) {
        if let Some((_, count, told)) = self.sent.get_mut(&note) {
            *count += 1;
            if now - *told < SAME {
                return;
            }
        }
        if !self.budget.take(now) {
            tracing::debug!(reason = note.reason, text = note.text, "too many events: not sent");
            return;
        }
        let time = format!("{:.6}", jiff::Timestamp::now());
        let namespace = match &note.about {
            About::Node => "default",
            About::Service(name, _) => &name.namespace,
        };
        let events = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let known = self.sent.get(&note).map(|(name, count, _)| (name.clone(), *count));
        let (method, target, body) = match &known {
            Some((name, count)) => {
                let series = json!({"series": {"count": count, "lastObservedTime": time}});
                (Method::PATCH, format!("{events}/{name}"), series)
            }
            None => (Method::POST, events, self.event(&note, namespace, &time)),
        };
        let name = known.map_or_else(|| name_of(&note, &self.node_name), |(name, _)| name);
        let text = body.to_string().into_bytes();
        let answer = self.connection.request(method, &target, text, async || {}).await;
        match answer {
            Ok(_answer) => self.quiet = false,
            // Another node was first.
            Err(trouble) if trouble.status == Some(409) => {}
            Err(trouble) => {
                let refused = matches!(trouble.class, Class::Forbidden | Class::Unauthorized);
                if refused && !self.quiet {
                    self.quiet = true;
                    tracing::warn!(
                        error = trouble.text,
                        "events are refused: what goes wrong shows in the log and in `lb status` only"
                    );
                } else {
                    tracing::debug!(error = trouble.text, "an event is not sent");
                }
                return;
            }
        }
        if self.sent.len() >= MEMORY {
            self.sent.clear();
        }
        let count = self.sent.get(&note).map_or(1, |(_, count, _)| *count);
        let _before = self.sent.insert(note, (name, count, now));
    }

    fn event(&self, note: &Note, namespace: &str, time: &str) -> Value {
        let regarding = match &note.about {
            // kubectl looks for events of a Node by its name in place of the UID.
            About::Node => {
                json!({"apiVersion": "v1", "kind": "Node", "name": self.node_name, "uid": self.node_name})
            }
            About::Service(name, uid) => json!({
                "apiVersion": "v1", "kind": "Service", "namespace": &*name.namespace,
                "name": &*name.name, "uid": uid.as_deref(),
            }),
        };
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"namespace": namespace, "name": name_of(note, &self.node_name)},
            "eventTime": time,
            "reportingController": "lb",
            "reportingInstance": self.node_name,
            "type": if note.warning { "Warning" } else { "Normal" },
            "reason": note.reason,
            "action": note.action,
            "note": note.text.chars().take(1000).collect::<String>(),
            "regarding": regarding,
        })
    }
}

/// The name of the event: of a Service the same on every node, of a node another each time.
fn name_of(note: &Note, node_name: &str) -> String {
    match &note.about {
        About::Node => format!("{node_name}.{:x}", jiff::Timestamp::now().as_nanosecond()),
        About::Service(name, _) => {
            let mut hasher = DefaultHasher::new();
            note.hash(&mut hasher);
            format!("{}.lb-{:016x}", name.name, hasher.finish())
        }
    }
}

/// How many more events may be sent now.
struct Budget {
    left: u32,
    filled: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { left: BUDGET.0, filled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let periods = (now - self.filled).as_nanos() / BUDGET.1.as_nanos();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        if periods > 0 {
            self.left = self.left.saturating_add(periods).min(BUDGET.0);
            self.filled = now;
        }
        self.left.checked_sub(1).map(|left| self.left = left).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_notes_is_a_few_events() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let sent = (0..1000).filter(|_| budget.take(start)).count();
        assert_eq!(sent, BUDGET.0 as usize);
        assert!(!budget.take(start + BUDGET.1 / 2));
        assert!(budget.take(start + BUDGET.1));
        assert!(!budget.take(start + BUDGET.1));
        let later = start + BUDGET.1 * 10_000;
        assert_eq!((0..1000).filter(|_| budget.take(later)).count(), BUDGET.0 as usize);
    }
}
