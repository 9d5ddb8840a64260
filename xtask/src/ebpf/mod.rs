//! The eBPF side of the build: a compiler with the sources of `core`, a sysroot for the BPF target, the
//! linker, and the objects.
//!
//! Only these modules know that the BPF target has no prebuilt `core` and needs features that stable Rust
//! allows behind `RUSTC_BOOTSTRAP=1`. That variable is set for these builds alone, never for the host's.

mod apt;
mod compiler;
mod linker;
mod object;
mod sysroot;
mod toolchain;

pub(crate) use object::{Variant, build};
pub(crate) use toolchain::Toolchain;
