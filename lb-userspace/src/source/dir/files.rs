//! The files of the directory, and the objects in them.
//!
//! Invariant: a file is taken in as a whole or not at all. One that cannot be read, does not parse,
//! or changes while it is read keeps its last good objects; an object that is not valid keeps its
//! last good version. Where one object is in several files, the first file by name counts.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::super::manifest::{self, Key, Manifest, Object};
use crate::model::{Coverage, Event, Node, Problem, Severity, Subject};

/// How old an empty file must be before it counts as emptied rather than about to be written.
const EMPTY_IS_MEANT: Duration = Duration::from_millis(500);

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// The agent's node: others are not told.
    node: Arc<str>,
    files: BTreeMap<Arc<Path>, File>,
    /// The files that have each object, in order.
    holders: HashMap<Key, BTreeSet<Arc<Path>>>,
    coverage: Coverage,
}

#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    objects: BTreeMap<Key, Object>,
    problems: Vec<Problem>,
    /// Whether something in it was never good, so that nobody knows what it says.
    unknown: bool,
}

/// What changes whenever a file is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    modified: SystemTime,
    len: u64,
    inode: u64,
}

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) events: Vec<Event>,
    /// Whether a file was changing, so that another scan should follow soon.
    pub(super) unsettled: bool,
}

impl Files {
    /// Files of which nothing was read yet.
    pub(super) fn new(node: &str) -> Self {
        Self { node: node.into(), ..Self::default() }
    }

    /// Reads what changed in `dir`, except the files in `skip`, which are being written.
    pub(super) fn scan(&mut self, dir: &Path, skip: &BTreeSet<PathBuf>) -> io::Result<Scan> {
        let mut scan = Scan::default();
        let mut touched = BTreeSet::new();
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(dir)? {
            let path: Arc<Path> = entry?.path().into();
            if !is_manifest(&path) {
                continue;
            }
            if skip.contains(&*path) {
                let _new = present.insert(path);
                scan.unsettled = true;
                continue;
            }
            // Gone between listing and looking: as if it had not been listed.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if !metadata.is_file() {
                continue;
            }
            let _new = present.insert(path.clone());
            let stamp = Stamp::of(&metadata)?;
            if self.files.get(&path).is_none_or(|file| file.stamp != Some(stamp)) {
                self.read(&path, stamp, &mut scan, &mut touched);
            }
        }
        let gone: Vec<Arc<Path>> =
            self.files.keys().filter(|path| !present.contains(*path)).cloned().collect();
        for path in gone {
            self.replace(&path, None, &mut scan, &mut touched);
        }
        self.tell(&touched, &mut scan);
        Ok(scan)
    }

    fn read(&mut self, path: &Arc<Path>, stamp: Stamp, scan: &mut Scan, touched: &mut Touched) {
        let text = fs::read_to_string(path);
        let still = fs::metadata(path).and_then(|metadata| Stamp::of(&metadata)).ok();
        if still != Some(stamp) {
            scan.unsettled = true;
            return;
        }
        let age = stamp.modified.elapsed().unwrap_or(EMPTY_IS_MEANT);
        if text.as_ref().is_ok_and(|text| text.trim().is_empty()) && age < EMPTY_IS_MEANT {
            scan.unsettled = true;
            return;
        }
        let manifest =
            text.map_err(|error| error.to_string()).and_then(|text| manifest::parse(&text, path));
        let before = self.files.get(path);
        let file = match manifest {
            Ok(manifest) => File::new(stamp, manifest, before),
            Err(why) => File::broken(stamp, path, &why, before),
        };
        self.replace(path, Some(file), scan, touched);
    }

    /// Puts a file in the place of what it was.
    fn replace(
        &mut self,
        path: &Arc<Path>,
        file: Option<File>,
        scan: &mut Scan,
        touched: &mut Touched,
    ) {
        let before = self.files.remove(path).unwrap_or_default();
        let none = BTreeMap::new();
        let objects = file.as_ref().map_or(&none, |file| &file.objects);
        for key in before.objects.keys().filter(|key| !objects.contains_key(*key)) {
            let holders = self.holders.entry(key.clone()).or_default();
            let _held = holders.remove(path);
            if holders.is_empty() {
                let _empty = self.holders.remove(key);
            }
            let _new = touched.insert(key.clone());
        }
        for (key, object) in objects {
            let same = before.objects.get(key) == Some(object);
            if !same {
                let _new = self.holders.entry(key.clone()).or_default().insert(path.clone());
                let _new = touched.insert(key.clone());
            }
        }
        let problems = file.as_ref().map(|file| file.problems.clone()).unwrap_or_default();
        if problems != before.problems {
            scan.events.push(Event::Problems(Subject::File(path.clone()), problems));
        }
        if let Some(file) = file {
            let _none = self.files.insert(path.clone(), file);
        }
    }

    /// Adds the events for the objects that changed.
    fn tell(&mut self, touched: &Touched, scan: &mut Scan) {
        for key in touched {
            let holders = self.holders.get(key);
            let mut holders = holders.into_iter().flatten();
            let first = holders.next();
            let object =
                first.and_then(|path| self.files.get(path)).and_then(|file| file.objects.get(key));
            scan.events.extend(match (object, key) {
                (Some(Object::Service(service)), _) => Some(Event::PutService(service.clone())),
                (Some(Object::Slice(slice)), _) => Some(Event::PutSlice(slice.clone())),
                (None, Key::Service(name)) => Some(Event::DeleteService(name.clone())),
                (None, Key::Slice(name)) => Some(Event::DeleteSlice(name.clone())),
                (_, Key::Node(name)) if *name != self.node => None,
                (Some(Object::Node(node)), _) => Some(Event::PutNode(Node::clone(node))),
                (None, Key::Node(_)) => Some(Event::DeleteNode),
            });
            let again = holders.map(|path| Problem {
                severity: Severity::Warning,
                object: Subject::Document(key.subject().to_string().into()),
                file: Some(path.clone()),
                reason: Cow::Owned(format!(
                    "it is in {} too, which comes first: this one is ignored",
                    first.map(|path| path.display().to_string()).unwrap_or_default()
                )),
            });
            let subject = Subject::Document(format!("{}, given twice", key.subject()).into());
            scan.events.push(Event::Problems(subject, again.collect()));
        }
        let unknown = self.files.values().any(|file| file.unknown) || scan.unsettled;
        let coverage = if unknown { Coverage::Partial } else { Coverage::Full };
        // What was complete once stays complete: whatever breaks later keeps its last good version.
        if coverage > self.coverage {
            self.coverage = coverage;
            scan.events.push(Event::Coverage(coverage));
        }
    }
}

/// Objects whose version, or whose file, may have changed.
type Touched = BTreeSet<Key>;

impl File {
    fn new(stamp: Stamp, manifest: Manifest, before: Option<&Self>) -> Self {
        let Manifest { objects, invalid, mut problems } = manifest;
        let mut file = Self { stamp: Some(stamp), ..Self::default() };
        for object in objects {
            let key = object.key();
            if let Some(twice) = file.objects.get(&key) {
                problems.extend(twice_in_file(&key, twice));
                continue;
            }
            let _none = file.objects.insert(key, object);
        }
        for key in invalid {
            let good = before.and_then(|before| before.objects.get(&key));
            file.unknown |= good.is_none();
            if let Some(good) = good {
                let _before = file.objects.entry(key).or_insert_with(|| good.clone());
            }
        }
        // Unchanged objects keep their allocation, so that comparing them later is cheap.
        for (key, object) in &mut file.objects {
            if let Some(same) = before.and_then(|before| before.objects.get(key))
                && same == object
            {
                *object = same.clone();
            }
        }
        file.problems = problems;
        file
    }

    fn broken(stamp: Stamp, path: &Arc<Path>, why: &str, before: Option<&Self>) -> Self {
        let objects = before.map(|before| before.objects.clone()).unwrap_or_default();
        let known = before.is_some_and(|before| !before.unknown);
        Self {
            stamp: Some(stamp),
            objects,
            problems: vec![Problem {
                severity: Severity::Warning,
                object: Subject::File(path.clone()),
                file: Some(path.clone()),
                reason: Cow::Owned(format!("{why}: what it said before stays")),
            }],
            unknown: !known,
        }
    }
}

fn twice_in_file(key: &Key, object: &Object) -> Option<Problem> {
    let file = match object {
        Object::Service(service) => service.file.clone(),
        Object::Slice(slice) => slice.file.clone(),
        Object::Node(_) => None,
    };
    Some(Problem {
        severity: Severity::Warning,
        object: Subject::Document(key.subject().to_string().into()),
        file,
        reason: Cow::Borrowed("it is twice in this file: the first one counts"),
    })
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> io::Result<Self> {
        Ok(Self { modified: metadata.modified()?, len: metadata.len(), inode: metadata.ino() })
    }
}

/// Whether a file is one of ours: neither hidden, nor something that an editor leaves around, nor
/// of another kind.
fn is_manifest(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let ours = [".yaml", ".yml", ".json"].iter().any(|extension| name.ends_with(extension));
    ours && !name.starts_with(['.', '#', '~'])
}
