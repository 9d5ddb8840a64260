//! Loads the programs over the pinned maps.
//!
//! Invariant: a pinned map is used only when it is what this build expects; a map of another size
//! is kept as it is, because flows live in it, and that is said in the log. Maps of another ABI
//! version lie in another directory and are never looked at.

use std::{
    error::Error as _,
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    programs::{CgroupSockAddr, Program, ProgramError, SchedClassifier},
};
use aya_obj::{Map as ObjectMap, Object as ParsedObject};
use lb_common::{ABI_VERSION, Runtime, Schema, Settings, names};

use super::{object::Object, options, paths::PinPaths};
use crate::{
    config::Capacity,
    maps::{
        bpf::{self, Access},
        table::{Table, TableError},
    },
};

/// The programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// This binary was built before the eBPF objects were.
    #[error("this lb was built without its eBPF objects: build it with `cargo xtask build`")]
    NotEmbedded,
    /// The embedded object is damaged, or not the one that this crate was written for.
    #[error("the embedded eBPF object has no {kind} {name}: rebuild it with `cargo xtask build`")]
    Missing {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The object cannot be parsed.
    #[error("the embedded eBPF object cannot be parsed: rebuild it with `cargo xtask build`")]
    Parse(#[source] Box<aya_obj::ParseError>),
    /// Something that is not a map is pinned under a map's name.
    #[error("{path} is not a BPF map: move it away, or run `lb cleanup`")]
    NotAMap {
        /// Path of the pin.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A pinned map was made by another build that claims the same ABI version.
    #[error(
        "pinned map {path} has {found}, this build expects {expected}: another build made it; \
         `lb cleanup` removes it, with all established flows"
    )]
    Shape {
        /// Path of the pin.
        path: PathBuf,
        /// Its shape.
        found: Shape,
        /// The shape in the object.
        expected: Shape,
    },
    /// The schema map names another ABI version than its directory.
    #[error(
        "the maps in {dir} say that they have ABI version {found}, this build has {ABI_VERSION}: \
         somebody moved them; run `lb cleanup`"
    )]
    Schema {
        /// The directory of the maps.
        dir: PathBuf,
        /// The version in the schema map.
        found: u32,
    },
    /// Directories or maps could not be made.
    #[error("preparing {dir}")]
    Pins {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A map could not be made or pinned.
    #[error("creating the maps")]
    Maps(#[source] Box<EbpfError>),
    /// The verifier or the kernel refused a program.
    #[error("the kernel refused program {program}{log}")]
    Program {
        /// Name of the program.
        program: String,
        /// The end of the verifier's log, on lines of its own; empty when there is none.
        log: String,
        /// The kernel's answer.
        source: Box<ProgramError>,
    },
    /// A map could not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// What a pinned map must agree in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    /// `BPF_MAP_TYPE_…`.
    pub kind: u32,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// Flags.
    pub flags: u32,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, key, value, flags } = self;
        write!(f, "type {kind}, key {key}, value {value}, flags {flags:#x}")
    }
}

/// The loaded programs, attached to nothing yet.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
    recipe: Recipe,
}

/// What is needed to load them once more.
#[derive(Clone, Debug)]
struct Recipe {
    object: Object,
    paths: PinPaths,
    capacity: Capacity,
    settings: Settings,
}

/// A program of ours a second time: the kernel takes none twice at one hook.
#[derive(Debug)]
pub struct Second {
    ebpf: Ebpf,
    name: &'static str,
}

impl Second {
    /// Its descriptor.
    ///
    /// # Panics
    ///
    /// Never: it is made with the program loaded.
    pub fn fd(&self) -> BorrowedFd<'_> {
        let program = self.ebpf.program(self.name).expect("it was found when it was loaded");
        program.fd().expect("it was loaded").as_fd()
    }
}

impl Programs {
    /// Loads `object`, re-using the maps that are pinned and pinning those that are not.
    ///
    /// Also returns what the operator should know of maps that were kept at another size.
    ///
    /// # Errors
    ///
    /// When a pinned map is not what it should be, or the kernel refuses a map or a program.
    pub fn load(
        object: Object,
        paths: &PinPaths,
        capacity: &Capacity,
        settings: &Settings,
    ) -> Result<(Self, Vec<String>), LoadError> {
        if !object.is_embedded() {
            return Err(LoadError::NotEmbedded);
        }
        let (paths, capacity, settings) = (paths.clone(), *capacity, *settings);
        let recipe = Recipe { object, paths, capacity, settings };
        let (ebpf, warnings) = recipe.open()?;
        let mut programs = Self { ebpf, recipe };
        programs.load_each()?;
        sign(object, &programs.recipe.paths)?;
        Ok((programs, warnings))
    }

    /// Loads one of the tc programs a second time, over the same maps.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn second(&self, name: &'static str) -> Result<Second, LoadError> {
        let (mut ebpf, _warnings) = self.recipe.open()?;
        load_named(&mut ebpf, name)?;
        Ok(Second { ebpf, name })
    }

    fn load_each(&mut self) -> Result<(), LoadError> {
        let all =
            names::TC_PROGRAMS.into_iter().chain([names::LB_XDP_IN]).chain(names::CGROUP_PROGRAMS);
        // Few nodes have a device without Ethernet header, and the verifier takes its time.
        for name in all.filter(|name| !names::L3_PROGRAMS.contains(name)) {
            load_named(&mut self.ebpf, name)?;
        }
        Ok(())
    }

    /// Loads a program that is loaded only where a device needs it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    pub fn need(&mut self, name: &'static str) -> Result<(), LoadError> {
        let loaded = self.ebpf.program(name).is_some_and(|program| program.fd().is_ok());
        if loaded { Ok(()) } else { load_named(&mut self.ebpf, name) }
    }

    /// The descriptor of a loaded program.
    ///
    /// # Panics
    ///
    /// When `name` is none of [`names`]: those are all loaded, but for [`names::L3_PROGRAMS`] that nobody
    /// [needed](Self::need).
    pub fn fd(&self, name: &str) -> BorrowedFd<'_> {
        let program = self.ebpf.program(name).expect("every named program is in the object");
        program.fd().expect("every program was loaded").as_fd()
    }

    /// A loaded tc program, to attach it as a filter.
    ///
    /// # Panics
    ///
    /// When `name` is not among the tc programs.
    pub fn classifier(&mut self, name: &str) -> &mut SchedClassifier {
        let program = self.ebpf.program_mut(name).expect("every named program is in the object");
        program.try_into().expect("tc programs are classifiers")
    }

    /// Pins the maps anew whose pins are missing in `dir`; returns their names.
    ///
    /// # Errors
    ///
    /// When a map cannot be pinned.
    pub fn repin(&self, dir: &std::path::Path) -> io::Result<Vec<String>> {
        let mut missing = Vec::new();
        for name in names::MAPS {
            let path = dir.join(name);
            if path.try_exists()? {
                continue;
            }
            let Some(map) = self.ebpf.map(name) else { continue };
            map.pin(&path).map_err(io::Error::other)?;
            missing.push(name.to_owned());
        }
        Ok(missing)
    }

    /// The loaded object, for the log of the trace programs.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

impl Recipe {
    /// Opens the object over the pinned maps, which are made where there are none.
    fn open(&self) -> Result<(Ebpf, Vec<String>), LoadError> {
        let Self { object, paths, capacity, settings } = self;
        let maps = paths.maps();
        paths.create().map_err(|source| LoadError::Pins { dir: paths.version(), source })?;
        let parsed = ParsedObject::parse(object.bytes())
            .map_err(|error| LoadError::Parse(Box::new(error)))?;
        let mut loader = EbpfLoader::new();
        let _chained = loader.override_global(names::SETTINGS, settings, true);
        let mut warnings = Vec::new();
        for name in names::MAPS {
            let path = maps.join(name);
            let map = parsed.maps.get(name).ok_or(LoadError::Missing { kind: "map", name })?;
            let wanted = options::max_entries(capacity, name).unwrap_or_else(|| map.max_entries());
            let size = match pinned_size(&path, shape(map))? {
                Some(pinned) if pinned != wanted => {
                    warnings.push(format!(
                        "map {name} keeps its {pinned} entries instead of {wanted}: \
                         run `lb cleanup` to resize it (established flows are lost)"
                    ));
                    pinned
                }
                Some(_) | None => wanted,
            };
            let _chained = loader.map_max_entries(name, size).map_pin_path(name, path);
        }
        let ebpf = loader.load(object.bytes()).map_err(|error| LoadError::Maps(Box::new(error)))?;
        Ok((ebpf, warnings))
    }
}

fn load_named(ebpf: &mut Ebpf, name: &'static str) -> Result<(), LoadError> {
    let missing = LoadError::Missing { kind: "program", name };
    let program = ebpf.program_mut(name).ok_or(missing)?;
    load_one(program).map_err(|error| LoadError::Program {
        program: name.to_owned(),
        log: verifier_log(&error),
        source: Box::new(error),
    })
}

fn load_one(program: &mut Program) -> Result<(), ProgramError> {
    if let Program::SchedClassifier(program) = program {
        program.load()
    } else if let Program::Xdp(program) = program {
        program.load()
    } else {
        let program: &mut CgroupSockAddr = program.try_into()?;
        program.load()
    }
}

fn shape(map: &ObjectMap) -> Shape {
    Shape {
        kind: map.map_type(),
        key: map.key_size(),
        value: map.value_size(),
        flags: map.map_flags(),
    }
}

/// The capacity of the map pinned at `path`; `None` when there is no pin.
fn pinned_size(path: &std::path::Path, expected: Shape) -> Result<Option<u32>, LoadError> {
    let not_a_map = |source| LoadError::NotAMap { path: path.to_owned(), source };
    let map = match bpf::obj_get(path, Access::ReadWrite) {
        Ok(fd) => bpf::Map::new(fd).map_err(not_a_map)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(not_a_map(error)),
    };
    let &bpf::MapInfo { kind, key_size, value_size, max_entries, flags, .. } = map.info();
    let found = Shape { kind, key: key_size, value: value_size, flags };
    if found != expected {
        return Err(LoadError::Shape { path: path.to_owned(), found, expected });
    }
    Ok(Some(max_entries))
}

/// Writes into the schema map who uses the maps, and starts the generations of next hops.
fn sign(object: Object, paths: &PinPaths) -> Result<(), LoadError> {
    let maps = paths.maps();
    let schema: Table<u32, Schema> = Table::open(&maps, names::LB_SCHEMA, Access::ReadWrite)?;
    let found = schema.get(&0)?.unwrap_or_default().abi_version;
    if found != 0 && found != ABI_VERSION {
        return Err(LoadError::Schema { dir: maps, found });
    }
    schema
        .put(&0, &Schema { abi_version: ABI_VERSION, families: 3, object_hash: object.hash() })?;
    let runtime: Table<u32, Runtime> = Table::open(&maps, names::LB_RUNTIME, Access::ReadWrite)?;
    if runtime.get(&0)?.unwrap_or_default().generation == 0 {
        // Nothing is redirected before the agent has seen that it may be.
        runtime.put(&0, &Runtime { generation: 1, ..Runtime::default() })?;
    }
    Ok(())
}

/// The last lines of the verifier's log, which say what it did not like.
fn verifier_log(error: &ProgramError) -> String {
    const LINES: usize = 40;
    let ProgramError::LoadError { verifier_log, .. } = error else {
        return error.source().map_or_else(String::new, |cause| format!(": {cause}"));
    };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LINES)..];
    if tail.is_empty() {
        return String::new();
    }
    format!("; the verifier says:\n{}", tail.join("\n"))
}
