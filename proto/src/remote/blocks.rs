//! A file of the host as one that can be read from any place: what a package says of itself stands in a few pieces of it, and the
//! whole of it is hashed there, not here.

use super::Remote;
use std::io::{Read, Seek, SeekFrom};

/// What is asked for at once.
const PIECE: u64 = 256 << 10;

pub(super) struct Blocks<'a> {
    remote: &'a Remote,
    path: &'a str,
    size: u64,
    at: u64,
    /// Number and bytes of the piece that was read last.
    piece: Option<(u64, Vec<u8>)>,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(remote: &'a Remote, path: &'a str, size: u64) -> Self {
        Self { remote, path, size, at: 0, piece: None }
    }
}

impl Read for Blocks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at >= self.size {
            return Ok(0);
        }
        let number = self.at / PIECE;
        if self.piece.as_ref().is_none_or(|(known, _)| *known != number) {
            let dd = format!("dd if=\"$f\" bs={PIECE} skip={number} count=1 2>/dev/null");
            self.piece = Some((number, self.remote.blocks(self.path, &dd).map_err(std::io::Error::other)?));
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
