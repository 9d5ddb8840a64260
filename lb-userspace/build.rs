//! Embeds the two eBPF objects that `cargo xtask build` made.
//!
//! Their places come from `LB_EBPF_OBJECT` and `LB_EBPF_TRACE_OBJECT`, by default
//! `target/ebpf/out/` of the workspace. They are copied into `OUT_DIR` so that what is embedded is
//! what was there when this crate was built. Without them the crate still builds, for editors and
//! for tests of what needs no kernel; such an agent says at its start how to make them.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    embed("LB_EBPF_OBJECT", "lb.o");
    embed("LB_EBPF_TRACE_OBJECT", "lb-trace.o");
}

fn embed(variable: &str, name: &str) {
    println!("cargo::rerun-if-env-changed={variable}");
    let object = env::var_os(variable).map_or_else(|| default_dir().join(name), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let target = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join(name);
    let bytes = fs::read(&object).unwrap_or_else(|error| {
        println!(
            "cargo::warning=eBPF object {} is not embedded ({error}): run `cargo xtask build`",
            object.display()
        );
        Vec::new()
    });
    fs::write(target, bytes).expect("OUT_DIR is writable");
}

fn default_dir() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let workspace = Path::new(&manifest).parent().expect("the crate lies in a workspace");
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), |dir| workspace.join(dir));
    target.join("ebpf/out")
}
