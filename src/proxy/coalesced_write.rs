//! Short writes in one piece. hyper hands a head and its body over as two slices; for those the kernel takes longer to gather
//! them than we take to lay them side by side (2 to 3 % of the whole processor time of a small request,
//! docs/design/measurements.md#m67).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Above it the copy costs more than it saves.
const COALESCE_LIMIT: usize = 1024;

/// Slices one behind the other.
pub struct CoalescedSlices {
    bytes: [u8; COALESCE_LIMIT],
    length: usize,
}

impl CoalescedSlices {
    /// `None`: they are not short.
    pub fn from_slices(slices: &[IoSlice<'_>]) -> Option<Self> {
        let mut short = Self { bytes: [0; COALESCE_LIMIT], length: 0 };
        for slice in slices {
            let end = short.length + slice.len();
            short.bytes.get_mut(short.length..end)?.copy_from_slice(slice);
            short.length = end;
        }
        Some(short)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// A connection to an upstream.
#[derive(Debug)]
pub struct UpstreamStream(pub TcpStream);

impl AsyncRead for UpstreamStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match CoalescedSlices::from_slices(bufs) {
            Some(short) => Pin::new(&mut self.0).poll_write(cx, short.bytes()),
            None => Pin::new(&mut self.0).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_slices_are_coalesced() {
        let short =
            CoalescedSlices::from_slices(&[IoSlice::new(b"head "), IoSlice::new(b""), IoSlice::new(b"body")])
                .unwrap();
        assert_eq!(short.bytes(), b"head body");
        assert_eq!(
            CoalescedSlices::from_slices(&[IoSlice::new(&[b'x'; COALESCE_LIMIT])]).unwrap().bytes().len(),
            COALESCE_LIMIT
        );
        assert!(
            CoalescedSlices::from_slices(&[IoSlice::new(b"head"), IoSlice::new(&[b'x'; COALESCE_LIMIT - 3])])
                .is_none()
        );
    }
}
