//! The body of a request: a text, or a file that is read while it is sent.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::fs::File;
use std::io::Read as _;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Bytes that are read at once.
const PIECE: usize = 1 << 18;

/// What is sent.
pub(crate) enum Sending {
    /// All of it at once.
    Text(Option<Bytes>),
    /// So many bytes of a file. Read where it is sent: nothing else runs there.
    File(File, u64),
}

impl Sending {
    /// Nothing.
    pub fn nothing() -> Self {
        Self::Text(None)
    }
}

impl From<String> for Sending {
    fn from(text: String) -> Self {
        Self::Text(Some(Bytes::from(text)).filter(|text| !text.is_empty()))
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Poll::Ready(match &mut *self {
            Self::Text(text) => text.take().map(|text| Ok(Frame::data(text))),
            Self::File(_, 0) => None,
            Self::File(file, left) => {
                let mut piece = vec![0; PIECE.min(usize::try_from(*left).unwrap_or(PIECE))];
                Some(file.read(&mut piece).and_then(|n| {
                    // It was cut meanwhile: the length was said already.
                    if n == 0 {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                    *left -= n as u64;
                    piece.truncate(n);
                    Ok(Frame::data(Bytes::from(piece)))
                }))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Text(None) | Self::File(_, 0))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Text(text) => text.as_ref().map_or(0, |text| text.len() as u64),
            Self::File(_, left) => *left,
        })
    }
}
