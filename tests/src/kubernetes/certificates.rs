//! The cluster's certificate authority, everybody's certificates, and kubeconfigs that use them.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

/// The certificate authority, and the directory of what it has signed.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
    server: String,
}

/// Who a client is: user and group.
pub(super) struct Identity<'a> {
    pub(super) user: &'a str,
    pub(super) group: &'a str,
}

impl Authority {
    /// Creates the authority; its certificate becomes `ca.crt` in `dir`. Kubeconfigs name `server`.
    pub(super) fn create(dir: &Path, server: String) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "lb-cluster");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = Self { issuer, dir: dir.to_owned(), server };
        authority.write("ca.crt", &authority.issuer.pem())?;
        Ok(authority)
    }

    /// A certificate with which `name` serves at these names and addresses: `NAME.crt`, `NAME.key`.
    pub(super) fn server(&self, name: &str, hosts: &[&str], ips: &[IpAddr]) -> Result<()> {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts)?;
        params.subject_alt_names.extend(ips.iter().map(|ip| SanType::IpAddress(*ip)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.distinguished_name.push(DnType::CommonName, name);
        self.sign(name, params)
    }

    /// A certificate by which a client is known: `NAME.crt`, `NAME.key`.
    pub(super) fn client(&self, name: &str, who: &Identity<'_>) -> Result<()> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, who.user);
        params.distinguished_name.push(DnType::OrganizationName, who.group);
        self.sign(name, params)
    }

    /// A client certificate and a kubeconfig that uses it, `NAME.conf`, whose path is returned.
    pub(super) fn kubeconfig(&self, name: &str, who: &Identity<'_>) -> Result<PathBuf> {
        self.client(name, who)?;
        let (dir, server) = (self.dir.display(), &self.server);
        let text = format!(
            "apiVersion: v1
kind: Config
clusters:
- name: lb-cluster
  cluster:
    server: {server}
    certificate-authority: {dir}/ca.crt
users:
- name: {name}
  user:
    client-certificate: {dir}/{name}.crt
    client-key: {dir}/{name}.key
contexts:
- name: lb-cluster
  context: {{cluster: lb-cluster, user: {name}}}
current-context: lb-cluster
"
        );
        self.write(&format!("{name}.conf"), &text)?;
        Ok(self.dir.join(format!("{name}.conf")))
    }

    /// The pair that signs and checks service account tokens: `NAME.key` and `NAME.pub`.
    pub(super) fn key_pair(&self, name: &str) -> Result<()> {
        let key = KeyPair::generate()?;
        self.write(&format!("{name}.key"), &key.serialize_pem())?;
        self.write(&format!("{name}.pub"), &key.public_key_pem())
    }

    fn sign(&self, name: &str, mut params: CertificateParams) -> Result<()> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("signing the certificate of {name}"))?;
        self.write(&format!("{name}.crt"), &certificate.pem())?;
        self.write(&format!("{name}.key"), &key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        let write = || {
            let mut options = fs::File::options();
            let mut file =
                options.create(true).truncate(true).write(true).mode(0o600).open(&path)?;
            std::io::Write::write_all(&mut file, text.as_bytes())
        };
        write().with_context(|| format!("writing {}", path.display()))
    }
}
