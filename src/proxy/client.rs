//! The bytes of one client connection, and the memory of the head that hyper is about to judge.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::coalesced_write::Short;

/// A head that is longer is not remembered; hyper has refused it long before.
const LONGEST_HEAD: usize = 1 << 20;

/// What the service of a connection tells its bytes.
#[derive(Debug, Default)]
pub struct Heads {
    /// How many heads were understood.
    understood: AtomicU64,
    /// A request is being answered: what is read now is no head.
    busy: AtomicBool,
    /// A body was left unread, so that nobody knows where the next head begins; or there will be none.
    lost: AtomicBool,
}

// One thread has both ends; hyper's upgrades only want what could be sent elsewhere.
const ORDER: Ordering = Ordering::Relaxed;

impl Heads {
    pub fn understood(&self) {
        self.understood.store(self.understood.load(ORDER) + 1, ORDER);
        self.busy.store(true, ORDER);
    }

    /// The answer is over; `read`: and so is the request.
    pub fn answered(&self, read: bool) {
        self.busy.store(false, ORDER);
        if !read {
            self.no_more();
        }
    }

    pub fn no_more(&self) {
        self.lost.store(true, ORDER);
    }
}

/// Remembers what was read since the last answer, until it is understood. When hyper writes before that, it writes a refusal
/// of its own: that write fails instead, and [`Client::refused`] has the bytes for somebody who understands them.
#[derive(Debug)]
pub struct Client {
    stream: Arc<TcpStream>,
    heads: Arc<Heads>,
    /// Read again first.
    before: Vec<u8>,
    head: Vec<u8>,
    /// Heads that were understood when `head` began.
    head_of: u64,
    refused: bool,
    remembers: bool,
}

impl Client {
    pub fn new(stream: Arc<TcpStream>, heads: Arc<Heads>) -> Self {
        Self {
            stream,
            heads,
            before: Vec::new(),
            head: Vec::new(),
            head_of: 0,
            refused: false,
            remembers: true,
        }
    }

    /// The same bytes again from the head on, for another protocol.
    pub fn again(self) -> Self {
        Self { before: self.head, head: Vec::new(), refused: false, remembers: false, ..self }
    }

    /// For those who refuse by themselves.
    pub fn forgetful(mut self) -> Self {
        self.remembers = false;
        self
    }

    /// Whether hyper was about to refuse what [`Self::head`] holds.
    pub const fn refused(&self) -> bool {
        self.refused
    }

    pub fn head(&self) -> &[u8] {
        &self.head
    }

    fn remember(&mut self, read: &[u8]) {
        let understood = self.heads.understood.load(ORDER);
        if self.head_of != understood || self.heads.busy.load(ORDER) {
            self.head.clear();
            self.head_of = understood;
        }
        if self.heads.busy.load(ORDER) || self.heads.lost.load(ORDER) {
            return;
        }
        if self.head.len() + read.len() > LONGEST_HEAD {
            self.remembers = false;
            self.head = Vec::new();
            return;
        }
        self.head.extend_from_slice(read);
    }

    fn refuses(&mut self) -> bool {
        let told = self.heads.busy.load(ORDER) || self.heads.lost.load(ORDER);
        let pending = self.remembers && !self.head.is_empty() && !told;
        self.refused |= pending && self.head_of == self.heads.understood.load(ORDER);
        self.refused
    }
}

fn refusal() -> io::Error {
    io::Error::other("the head is for somebody else")
}

impl AsyncRead for Client {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.before.is_empty() {
            let part = this.before.len().min(buf.remaining());
            buf.put_slice(&this.before[..part]);
            this.before.drain(..part);
            return Poll::Ready(Ok(()));
        }
        let (before, room) = (buf.filled().len(), buf.remaining());
        loop {
            ready!(this.stream.poll_read_ready(cx))?;
            match this.stream.try_read_buf(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(read) => {
                    if 0 < read && read < room {
                        // There was no more: saves asking the kernel once more before the next wait.
                        let _ = this
                            .stream
                            .try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                    }
                    break;
                }
            }
        }
        if this.remembers {
            this.remember(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.refuses() {
            return Poll::Ready(Err(refusal()));
        }
        loop {
            ready!(this.stream.poll_write_ready(cx))?;
            match this.stream.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(short) = Short::of(bufs) {
            return self.poll_write(cx, short.bytes());
        }
        let this = self.get_mut();
        if this.refuses() {
            return Poll::Ready(Err(refusal()));
        }
        loop {
            ready!(this.stream.poll_write_ready(cx))?;
            match this.stream.try_write_vectored(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.refused {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(shutdown(self.stream.as_raw_fd(), Shutdown::Write).map_err(Into::into))
    }
}
