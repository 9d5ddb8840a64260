//! Test harness of the load balancer: the lab of network namespaces and what runs in it.

pub mod bench;
pub mod budget;
pub mod cluster;
pub mod contract;
pub mod image;
pub mod kind;
pub mod kube_proxy;
pub mod kubernetes;
pub mod lab;
pub mod packet;
pub mod pod;
pub mod vote;
pub mod worker;
