//! What runs in the pods of a cluster of tests: the web page of the vote lab, and the process that holds
//! a pod's namespaces. One static program; the images call it by what it is there.

mod fetch;
mod pause;
mod vote;

pub use fetch::fetch;
pub use pause::pause;
pub use vote::{Vote, serve};
