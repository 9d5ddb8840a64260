//! Which programs there are, and how each is built. Versions are not here: `go.mod` has them.

/// Which components somebody needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Set {
    /// A cluster in network namespaces.
    Cluster,
    /// A kind node image: kubeadm besides.
    Kind,
}

/// One Go module that pins one project.
#[derive(Debug)]
pub(super) struct Module {
    /// Its directory below `tests/kubernetes/modules`.
    pub(super) dir: &'static str,
    /// The module path of the project, whose version `go.mod` requires.
    pub(super) project: &'static str,
    /// Build tags, separated by commas.
    pub(super) tags: &'static str,
    /// Whether C is compiled. Everything else is a static program that runs in any root file system.
    pub(super) cgo: bool,
    /// Variables that hold the version, as the project's own release build sets them.
    pub(super) version: &'static [(&'static str, Version)],
    /// The programs: name, package below the project, in which set.
    pub(super) programs: &'static [(&'static str, &'static str, Set)],
}

/// What a version variable holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Version {
    /// `v1.2.3`.
    Whole,
    /// `1`.
    Major,
    /// `2`.
    Minor,
    /// Always the same text.
    Text(&'static str),
}

/// Everything, quick ones first so that a missing prerequisite is found early.
pub(super) const MODULES: [Module; 7] = [
    Module {
        dir: "kind",
        project: "sigs.k8s.io/kind",
        tags: "",
        cgo: false,
        version: &[],
        programs: &[("kind", "", Set::Kind)],
    },
    Module {
        dir: "runc",
        project: "github.com/opencontainers/runc",
        // Containers of the kubelet come with a seccomp profile.
        tags: "seccomp",
        cgo: true,
        version: &[],
        programs: &[("runc", "", Set::Cluster)],
    },
    Module {
        dir: "cni",
        project: "github.com/containernetworking/plugins",
        tags: "",
        cgo: false,
        version: &[(
            "github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion",
            Version::Whole,
        )],
        programs: &[
            ("ptp", "plugins/main/ptp", Set::Cluster),
            ("bridge", "plugins/main/bridge", Set::Cluster),
            ("loopback", "plugins/main/loopback", Set::Cluster),
            ("portmap", "plugins/meta/portmap", Set::Cluster),
            ("host-local", "plugins/ipam/host-local", Set::Cluster),
        ],
    },
    Module {
        dir: "etcd",
        project: "go.etcd.io/etcd/server/v3",
        tags: "",
        cgo: false,
        version: &[],
        programs: &[("etcd", "", Set::Cluster)],
    },
    Module {
        dir: "containerd",
        project: "github.com/containerd/containerd/v2",
        // Snapshotters whose C libraries nobody here needs.
        tags: "no_btrfs,no_devmapper,no_zfs",
        cgo: false,
        version: &[("github.com/containerd/containerd/v2/version.Version", Version::Whole)],
        programs: &[
            ("containerd", "cmd/containerd", Set::Cluster),
            ("ctr", "cmd/ctr", Set::Cluster),
            ("containerd-shim-runc-v2", "cmd/containerd-shim-runc-v2", Set::Cluster),
        ],
    },
    Module {
        dir: "coredns",
        project: "github.com/coredns/coredns",
        tags: "",
        cgo: false,
        version: &[],
        programs: &[("coredns", "", Set::Cluster)],
    },
    Module {
        dir: "kubernetes",
        project: "k8s.io/kubernetes",
        tags: "",
        cgo: false,
        // Without them nodes report v0.0.0-master.
        version: &[
            ("k8s.io/component-base/version.gitVersion", Version::Whole),
            ("k8s.io/component-base/version.gitMajor", Version::Major),
            ("k8s.io/component-base/version.gitMinor", Version::Minor),
            ("k8s.io/component-base/version.gitTreeState", Version::Text("clean")),
        ],
        programs: &[
            ("kubectl", "cmd/kubectl", Set::Cluster),
            ("kube-apiserver", "cmd/kube-apiserver", Set::Cluster),
            ("kube-controller-manager", "cmd/kube-controller-manager", Set::Cluster),
            ("kube-scheduler", "cmd/kube-scheduler", Set::Cluster),
            ("kubelet", "cmd/kubelet", Set::Cluster),
            ("kubeadm", "cmd/kubeadm", Set::Kind),
        ],
    },
];

impl Set {
    /// Whether somebody who needs `self` needs what belongs to `other`.
    pub(super) fn includes(self, other: Self) -> bool {
        self == Self::Kind || other == Self::Cluster
    }
}

impl Module {
    /// The version that this `go.mod` requires of the project.
    pub(super) fn required<'a>(&self, go_mod: &'a str) -> Option<&'a str> {
        go_mod.lines().find_map(|line| {
            let line = line.trim().trim_start_matches("require ");
            line.strip_prefix(self.project)?.strip_prefix(' ')?.split(' ').next()
        })
    }

    /// Flags of the linker: no debug information, and the version.
    pub(super) fn ldflags(&self, version: &str) -> String {
        let mut numbers = version.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or("0"), numbers.next().unwrap_or("0"));
        let mut flags = "-s -w".to_owned();
        for (variable, what) in self.version {
            let value = match what {
                Version::Whole => version,
                Version::Major => major,
                Version::Minor => minor,
                Version::Text(text) => text,
            };
            flags += &format!(" -X {variable}={value}");
        }
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_go_mod_requires_its_project_and_names_every_program() {
        for module in &MODULES {
            let file = crate::workspace::kubernetes_modules().join(module.dir).join("go.mod");
            let text = std::fs::read_to_string(&file).expect("the module is committed");
            assert!(
                module.required(&text).is_some(),
                "{} requires no {}",
                module.dir,
                module.project
            );
            for (name, package, _) in module.programs {
                let package = format!("{}/{package}", module.project);
                let package = package.trim_end_matches('/');
                assert!(
                    text.lines().any(|line| line.trim_start_matches("tool").trim() == package),
                    "{}/go.mod has no tool line for {name}: {package}",
                    module.dir
                );
            }
        }
    }

    #[test]
    fn the_version_reaches_the_linker() {
        let module = MODULES.iter().find(|module| module.dir == "kubernetes").expect("is listed");
        let text = "require (\n\tk8s.io/kubernetes v1.37.2 // indirect\n)";
        let flags = module.ldflags(module.required(text).expect("is required"));
        assert!(flags.contains("gitVersion=v1.37.2 "), "{flags}");
        assert!(flags.contains("gitMajor=1 ") && flags.contains("gitMinor=37 "), "{flags}");
    }
}
