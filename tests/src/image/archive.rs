//! What an image archive holds: the two layouts that tools read.

use std::io;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Image, Parts, architecture};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How the image is laid out in the archive.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Format {
    /// As `docker save` does it: for `docker load`, `podman load`, `ctr images import`, `kind load`.
    #[default]
    Docker,
    /// The OCI image layout: for registries' tools (`skopeo copy oci-archive:…`) and containerd.
    Oci,
}

/// The files of an archive, in the order in which they are written.
pub(super) fn files(
    image: &Image,
    parts: &Parts,
    format: Format,
) -> io::Result<Vec<(String, Vec<u8>)>> {
    match format {
        Format::Docker => docker(image, parts),
        Format::Oci => oci(image, parts),
    }
}

fn docker(image: &Image, parts: &Parts) -> io::Result<Vec<(String, Vec<u8>)>> {
    let config = format!("{}.json", parts.config_digest);
    let layer = format!("{}/layer.tar", parts.layer_digest);
    let manifest = json!([{ "Config": config, "RepoTags": image.names, "Layers": [layer] }]);
    Ok(vec![
        (config, parts.config.clone()),
        (layer, parts.layer.clone()),
        ("manifest.json".into(), serde_json::to_vec(&manifest)?),
    ])
}

fn oci(image: &Image, parts: &Parts) -> io::Result<Vec<(String, Vec<u8>)>> {
    let blob = |digest: &str| format!("blobs/sha256/{digest}");
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": CONFIG,
            "digest": format!("sha256:{}", parts.config_digest),
            "size": parts.config.len(),
        },
        "layers": [{
            "mediaType": LAYER,
            "digest": format!("sha256:{}", parts.layer_digest),
            "size": parts.layer.len(),
        }],
    }))?;
    let digest = sha256(&manifest);
    let entries: Vec<_> = image
        .names
        .iter()
        .map(|name| {
            json!({
                "mediaType": MANIFEST,
                "digest": format!("sha256:{digest}"),
                "size": manifest.len(),
                "platform": { "architecture": architecture(), "os": "linux" },
                "annotations": {
                    // The first is for containerd, the second for everybody else.
                    "io.containerd.image.name": name,
                    "org.opencontainers.image.ref.name": name.rsplit(':').next(),
                },
            })
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "manifests": entries });
    Ok(vec![
        ("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        (blob(&parts.config_digest), parts.config.clone()),
        (blob(&parts.layer_digest), parts.layer.clone()),
        (blob(&digest), manifest),
        ("index.json".into(), serde_json::to_vec(&index)?),
    ])
}

/// A digest, in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|octet| format!("{octet:02x}")).collect()
}
