//! Where things are: the repository, its target directory, the tools and the eBPF objects.
//!
//! Nothing is ever written outside the target directory.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a directory of the workspace")
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The target directory of the eBPF crate: apart from the host's, because the flags of the eBPF build
/// would make cargo rebuild the host's crates in turns.
pub(crate) fn ebpf_target() -> PathBuf {
    target().join("ebpf")
}

/// The directory of the finished objects, which the agent embeds.
pub(crate) fn ebpf_objects() -> PathBuf {
    ebpf_target().join("out")
}

/// Where the eBPF sysroot and the linker live. `LB_EBPF_TOOLS` lets several checkouts share them.
pub(crate) fn ebpf_tools() -> PathBuf {
    match env::var_os("LB_EBPF_TOOLS") {
        Some(dir) => root().join(dir),
        None => target().join("ebpf-tools"),
    }
}

/// The Go modules that pin the components of a Kubernetes cluster.
pub(crate) fn kubernetes_modules() -> PathBuf {
    root().join("tests/kubernetes/modules")
}

/// Where the components of a Kubernetes cluster live: programs in `bin`. `LB_KUBERNETES_TOOLS` lets
/// several checkouts share them.
pub(crate) fn kubernetes_tools() -> PathBuf {
    match env::var_os("LB_KUBERNETES_TOOLS") {
        Some(dir) => root().join(dir),
        None => target().join("kubernetes"),
    }
}

/// Where the container images of a cluster are: this checkout's own, because the agent is among them.
pub(crate) fn kubernetes_images() -> PathBuf {
    target().join("kubernetes/images")
}
