//! What the agent says about itself while it runs: logs on stderr, metrics over HTTP.
//!
//! Nothing here decides anything, and no failure here stops the agent.

pub mod http;
pub mod logs;
pub mod metrics;
