//! The tar format, as far as images need it: regular files with short names, owned by root.

use std::io::{self, Write};

/// Everything in a tar is a multiple of this.
const BLOCK: usize = 512;

/// An archive being written.
pub(super) struct Archive<W> {
    out: W,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }

    /// Appends a file.
    ///
    /// # Errors
    ///
    /// A name that a plain header cannot hold, or what the writer returns.
    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(&header(path, mode, bytes.len())?)?;
        self.out.write_all(bytes)?;
        let rest = bytes.len().next_multiple_of(BLOCK) - bytes.len();
        self.out.write_all(&[0; BLOCK][..rest])
    }

    /// Ends the archive with the two empty blocks that say so.
    pub(super) fn end(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }
}

/// A header of POSIX 1003.1-1990 ("ustar"): fixed fields, numbers in octal text.
fn header(path: &str, mode: u32, size: usize) -> io::Result<[u8; BLOCK]> {
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    // Eleven octal digits.
    if size >= 1 << 33 {
        return refuse(format!("{path}: {size} octets are too many for a tar header"));
    }
    if path.is_empty() || path.len() >= 100 || path.starts_with('/') {
        return refuse(format!("{path:?} cannot be a name in a tar header"));
    }
    let mut block = [0; BLOCK];
    let mut put =
        |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, path);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000"); // user
    put(116, "0000000"); // group
    put(124, &format!("{size:011o}"));
    put(136, "00000000000"); // time
    put(148, "        "); // the checksum counts itself as spaces
    put(156, "0"); // a regular file
    put(257, "ustar\x0000");
    let sum: u32 = block.iter().map(|octet| u32::from(*octet)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}
