//! A file of the host as one that can be read from any place: what a package says of itself stands in a few
//! pieces of it, and the whole of it is hashed there, not here.

use std::io::{Read, Seek, SeekFrom};

/// What is asked for at once.
pub(super) const PIECE: u64 = 256 << 10;

pub(super) struct Blocks<'a> {
    /// Reads a piece by its number; there are `PIECE` bytes in each.
    read: &'a dyn Fn(u64) -> std::io::Result<Vec<u8>>,
    size: u64,
    at: u64,
    /// Number and bytes of the piece that was read last.
    piece: Option<(u64, Vec<u8>)>,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(read: &'a dyn Fn(u64) -> std::io::Result<Vec<u8>>, size: u64) -> Self {
        Self { read, size, at: 0, piece: None }
    }
}

impl Read for Blocks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at >= self.size {
            return Ok(0);
        }
        let number = self.at / PIECE;
        if self.piece.as_ref().is_none_or(|(known, _)| *known != number) {
            self.piece = Some((number, (self.read)(number)?));
        }
        let from = (self.at - number * PIECE) as usize;
        let rest = self.piece.as_ref().and_then(|(_, bytes)| bytes.get(from..)).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        buffer[..n].copy_from_slice(&rest[..n]);
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Blocks<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => i128::from(at),
            SeekFrom::End(by) => i128::from(self.size) + i128::from(by),
            SeekFrom::Current(by) => i128::from(self.at) + i128::from(by),
        };
        self.at = u64::try_from(to).map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
