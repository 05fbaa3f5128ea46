//! The bytes of one client connection, and the memory of the head that hyper is about to judge.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::coalesced_write::CoalescedSlices;
use crate::plan::proxy::control_frames::ControlFrameLimit;

/// A head that is longer is not remembered; hyper has refused it long before.
const MAX_HEAD_BYTES: usize = 1 << 20;

/// State that the service of a connection shares with its bytes.
#[derive(Debug, Default)]
pub struct HeadState {
    /// How many heads were understood.
    parsed_heads: AtomicU64,
    /// A request is being answered: what is read now is no head.
    is_answering: AtomicBool,
    /// The client sent too many HTTP/2 control frames.
    is_flooded: AtomicBool,
    /// A body was left unread, so that the start of the next head is unknown; or there will be none.
    is_out_of_sync: AtomicBool,
}

// One thread has both ends; hyper's upgrades only want what could be sent elsewhere.
const ORDER: Ordering = Ordering::Relaxed;

impl HeadState {
    pub fn mark_parsed(&self) {
        self.parsed_heads.store(self.parsed_heads.load(ORDER) + 1, ORDER);
        self.is_answering.store(true, ORDER);
    }

    /// The answer has ended; `is_request_read`: and the request was read to its end.
    pub fn mark_answered(&self, is_request_read: bool) {
        self.is_answering.store(false, ORDER);
        if !is_request_read {
            self.stop_tracking();
        }
    }

    pub fn is_flooded(&self) -> bool {
        self.is_flooded.load(ORDER)
    }

    pub fn stop_tracking(&self) {
        self.is_out_of_sync.store(true, ORDER);
    }
}

/// Remembers what was read since the last answer, until it is understood. When hyper writes before that, it writes a refusal
/// of its own: that write fails instead, and [`ClientStream::refused`] has the bytes for a receiver that understands them.
#[derive(Debug)]
pub struct ClientStream {
    stream: Arc<TcpStream>,
    head_state: Arc<HeadState>,
    /// Read again first.
    replay: Vec<u8>,
    head: Vec<u8>,
    /// Heads that were understood when `head` began.
    head_number: u64,
    is_refused: bool,
    is_recording: bool,
    /// For a client that speaks HTTP/2.
    control_frames: Option<ControlFrameLimit>,
}

impl ClientStream {
    pub fn new(stream: Arc<TcpStream>, head_state: Arc<HeadState>) -> Self {
        Self {
            stream,
            head_state,
            replay: Vec::new(),
            head: Vec::new(),
            head_number: 0,
            is_refused: false,
            is_recording: true,
            control_frames: None,
        }
    }

    /// Replays the bytes from the head on, for HTTP/2.
    pub fn into_http2(self) -> Self {
        let control_frames = Some(ControlFrameLimit::new(Instant::now()));
        Self {
            replay: self.head,
            head: Vec::new(),
            is_refused: false,
            is_recording: false,
            control_frames,
            ..self
        }
    }

    /// Lets the proxy write its own refusal.
    pub fn without_recording(mut self) -> Self {
        self.is_recording = false;
        self
    }

    /// Whether hyper was about to refuse what [`Self::head`] holds.
    pub const fn is_refused(&self) -> bool {
        self.is_refused
    }

    pub fn head(&self) -> &[u8] {
        &self.head
    }

    fn record_head(&mut self, read: &[u8]) {
        let understood = self.head_state.parsed_heads.load(ORDER);
        if self.head_number != understood || self.head_state.is_answering.load(ORDER) {
            self.head.clear();
            self.head_number = understood;
        }
        if self.head_state.is_answering.load(ORDER) || self.head_state.is_out_of_sync.load(ORDER) {
            return;
        }
        if self.head.len() + read.len() > MAX_HEAD_BYTES {
            self.is_recording = false;
            self.head = Vec::new();
            return;
        }
        self.head.extend_from_slice(read);
    }

    fn count_control_frames(&mut self, read: &[u8]) -> io::Result<()> {
        let Some(limit) = &mut self.control_frames else { return Ok(()) };
        limit.record_received(read, Instant::now()).map_err(|flood| {
            self.head_state.is_flooded.store(true, ORDER);
            io::Error::other(flood)
        })
    }

    fn check_refusal(&mut self) -> bool {
        let is_no_head =
            self.head_state.is_answering.load(ORDER) || self.head_state.is_out_of_sync.load(ORDER);
        let pending = self.is_recording && !self.head.is_empty() && !is_no_head;
        self.is_refused |= pending && self.head_number == self.head_state.parsed_heads.load(ORDER);
        self.is_refused
    }
}

fn make_refusal_error() -> io::Error {
    io::Error::other("the head is not valid for hyper")
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.replay.is_empty() {
            let part = this.replay.len().min(buf.remaining());
            buf.put_slice(&this.replay[..part]);
            let counted = this.count_control_frames(&buf.filled()[buf.filled().len() - part..]);
            this.replay.drain(..part);
            return Poll::Ready(counted);
        }
        let (before, room) = (buf.filled().len(), buf.remaining());
        loop {
            ready!(this.stream.poll_read_ready(cx))?;
            match this.stream.try_read_buf(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(read) => {
                    if 0 < read && read < room {
                        // There was no more: saves another read from the kernel before the next wait.
                        let _ = this
                            .stream
                            .try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                    }
                    break;
                }
            }
        }
        if this.is_recording {
            this.record_head(&buf.filled()[before..]);
        }
        Poll::Ready(this.count_control_frames(&buf.filled()[before..]))
    }
}

impl ClientStream {
    /// Sends as soon as the stream takes bytes, unless the request is refused.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        send: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.check_refusal() {
            return Poll::Ready(Err(make_refusal_error()));
        }
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match send(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => {
                    if let (Some(limit), Ok(sent)) = (&mut self.control_frames, &done) {
                        limit.record_sent(*sent);
                    }
                    return Poll::Ready(done);
                }
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(short) = CoalescedSlices::from_slices(bufs) {
            return self.poll_write(cx, short.bytes());
        }
        self.get_mut().poll_send(cx, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_refused {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(shutdown(self.stream.as_raw_fd(), Shutdown::Write).map_err(Into::into))
    }
}
