//! Bytes between two connections, both ways, untouched.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of one read.
const BUFFER: usize = 64 << 10;

/// Who ended a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// The first connection said that nothing more comes from it.
    A,
    /// The second.
    B,
}

/// Counts what is read.
struct Counted<'a, T> {
    inner: T,
    bytes: &'a AtomicU64,
    /// Order in which the sides ended, and its own place.
    ended: &'a AtomicU64,
    own: u64,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let read = (buf.filled().len() - before) as u64;
        match &polled {
            Poll::Ready(Ok(())) if read > 0 => drop(self.bytes.fetch_add(read, Ordering::Relaxed)),
            Poll::Ready(_) => {
                let _ = self.ended.compare_exchange(0, self.own, Ordering::Relaxed, Ordering::Relaxed);
            }
            Poll::Pending => {}
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<'_, T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Moves bytes until both sides are done or one is cut; counts those of each. Says whose end came first.
pub(crate) async fn join<A, B>(a: A, b: B, of_a: &AtomicU64, of_b: &AtomicU64) -> First
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let ended = AtomicU64::new(0);
    let mut a = Counted { inner: a, bytes: of_a, ended: &ended, own: 1 };
    let mut b = Counted { inner: b, bytes: of_b, ended: &ended, own: 2 };
    // How it is cut says nothing that the order does not.
    let _ = tokio::io::copy_bidirectional_with_sizes(&mut a, &mut b, BUFFER, BUFFER).await;
    if ended.load(Ordering::Relaxed) == 2 { First::B } else { First::A }
}
