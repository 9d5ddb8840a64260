//! What tools will find in an image, read back with the system's tar.

use std::{collections::BTreeMap, fs, process::Command};

use serde_json::Value;

use super::{Format, Image};

fn image() -> Image {
    Image {
        names: vec!["example.org/some/thing:v1".into(), "example.org/some/thing:v2".into()],
        programs: vec![("b".into(), vec![7; 1000]), ("a".into(), b"first".to_vec())],
        entrypoint: vec!["/a".into(), "serve".into()],
        labels: vec![("org.opencontainers.image.title".into(), "thing".into())],
        ports: vec!["80/tcp".into()],
    }
}

/// Every file of a tar archive, unpacked by somebody else's program.
fn unpacked(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("archive");
    fs::write(&path, archive).expect("the archive is written");
    let tar = |words: &[&str]| {
        let output = Command::new("tar").args(words).arg(&path).current_dir(&dir).output();
        let output = output.expect("tar starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("names are text")
    };
    let _ = tar(&["-xf"]);
    let names = tar(&["-tf"]);
    names
        .lines()
        .map(|name| (name.to_owned(), fs::read(dir.path().join(name)).expect("was unpacked")))
        .collect()
}

fn written(format: Format) -> (Vec<u8>, String) {
    let mut bytes = Vec::new();
    let digest = image().write(format, &mut bytes).expect("memory takes it");
    (bytes, digest)
}

fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("is JSON")
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", super::archive::sha256(bytes))
}

#[test]
fn a_docker_archive_names_its_configuration_and_layer() {
    let (bytes, digest) = written(Format::Docker);
    let files = unpacked(&bytes);
    let manifest = &parse(&files["manifest.json"])[0];
    assert_eq!(manifest["RepoTags"][0], "example.org/some/thing:v1");
    assert_eq!(manifest["RepoTags"][1], "example.org/some/thing:v2");
    let config = &files[manifest["Config"].as_str().expect("is a name")];
    assert_eq!(sha256(config), digest);
    let config = parse(config);
    assert_eq!(config["config"]["Entrypoint"][1], "serve");
    assert_eq!(config["config"]["Labels"]["org.opencontainers.image.title"], "thing");
    let layer = &files[manifest["Layers"][0].as_str().expect("is a name")];
    assert_eq!(config["rootfs"]["diff_ids"][0], sha256(layer).as_str());
    let layer = unpacked(layer);
    assert_eq!(layer["a"], b"first");
    assert_eq!(layer["b"], vec![7; 1000]);
}

#[test]
fn an_oci_archive_finds_every_blob_by_its_digest() {
    let (bytes, digest) = written(Format::Oci);
    let files = unpacked(&bytes);
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("has a digest");
        let bytes = &files[&format!("blobs/{}", digest.replace(':', "/"))];
        assert_eq!(sha256(bytes), digest);
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    };
    let index = parse(&files["index.json"]);
    let manifest = parse(blob(&index["manifests"][0]));
    assert_eq!(manifest["config"]["digest"], digest.as_str());
    let config = parse(blob(&manifest["config"]));
    let layer = blob(&manifest["layers"][0]);
    assert_eq!(config["rootfs"]["diff_ids"][0], sha256(layer).as_str());
}

#[test]
fn the_same_programs_in_another_order_are_the_same_image() {
    let (bytes, digest) = written(Format::Docker);
    let mut other = image();
    other.programs.reverse();
    let mut again = Vec::new();
    assert_eq!(other.write(Format::Docker, &mut again).expect("memory takes it"), digest);
    assert_eq!(again, bytes);
    other.programs[0].1.push(0);
    assert_ne!(other.write(Format::Docker, &mut again).expect("memory takes it"), digest);
}
