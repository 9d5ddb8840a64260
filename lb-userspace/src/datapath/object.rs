//! The eBPF objects, as this binary carries them.

use std::hash::Hasher as _;

/// Bytes aligned as the ELF parser wants them.
#[repr(C, align(8))]
struct Aligned<Bytes: ?Sized>(Bytes);

static NORMAL: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/lb.o")));
static TRACE: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/lb-trace.o")));

/// Which of the two objects.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Object {
    /// The programs as they run in production.
    #[default]
    Normal,
    /// The same programs, logging each packet.
    Trace,
}

impl Object {
    /// The ELF object.
    pub fn bytes(self) -> &'static [u8] {
        match self {
            Self::Normal => &NORMAL.0,
            Self::Trace => &TRACE.0,
        }
    }

    /// Whether the object was there when this binary was built.
    pub fn is_embedded(self) -> bool {
        !self.bytes().is_empty()
    }

    /// A hash of the object, by which `lb status` tells builds apart.
    pub fn hash(self) -> u64 {
        // FNV-1a: the same on every build, unlike the standard library's hashers.
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        hasher.write(self.bytes());
        hasher.finish()
    }
}

struct Fnv(u64);

impl std::hash::Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
