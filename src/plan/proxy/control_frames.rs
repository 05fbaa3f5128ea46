//! A limit for the control frames of an HTTP/2 client (RFC 9113, 4.1 and 6). Pure.
//!
//! h2 0.4 limits streams that are reset, continuations and tiny DATA frames. It has no limit for PRIORITY, WINDOW_UPDATE, PING, SETTINGS
//! and unknown frames: one connection that sends nothing else keeps a core busy. A client that receives data acknowledges it with
//! WINDOW_UPDATE, so bytes that are sent to the client earn credit for frames.

use std::time::Instant;

/// `PRI * HTTP/2.0`, two empty lines and `SM` come before the first frame.
const PREFACE_BYTES: usize = 24;
const HEADER_BYTES: usize = 9;
/// Frames that a client may send at once, and per second afterwards. A browser sends a few dozen in the life of a connection.
const MAX_CREDIT: u64 = 10_000;
const CREDIT_PER_SECOND: u64 = 1_000;
/// Bytes to the client per frame of credit. A message of 40 bytes in a DATA frame of its own covers a WINDOW_UPDATE for its stream and
/// one for the connection.
const BYTES_PER_CREDIT: u64 = 16;
/// A frame that is answered costs more than its answer earns: the acknowledgement of a PING has 17 bytes.
const ANSWERED_FRAME_COST: u64 = 3;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

/// The client has sent more control frames than its credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many HTTP/2 control frames")]
pub struct ControlFrameFlood;

/// The credit of one connection, and the position in its frames.
#[derive(Debug)]
pub struct ControlFrameLimit {
    credit: u64,
    last_refill: Instant,
    /// Bytes to the client that are not credited yet.
    sent_bytes: u64,
    /// Bytes of the preface or of a payload that are still to come.
    skipped_bytes: usize,
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
}

impl ControlFrameLimit {
    /// Starts at the first byte of the preface.
    pub const fn new(now: Instant) -> Self {
        Self {
            credit: MAX_CREDIT,
            last_refill: now,
            sent_bytes: 0,
            skipped_bytes: PREFACE_BYTES,
            header: [0; HEADER_BYTES],
            header_bytes: 0,
        }
    }

    /// Credits bytes that were sent to the client.
    pub fn record_sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
        self.add_credit(self.sent_bytes / BYTES_PER_CREDIT);
        self.sent_bytes %= BYTES_PER_CREDIT;
    }

    /// Counts the frames in bytes that the client has sent.
    pub fn record_received(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), ControlFrameFlood> {
        let elapsed = now.saturating_duration_since(self.last_refill);
        let earned =
            u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).saturating_mul(CREDIT_PER_SECOND) / 1000;
        if earned > 0 {
            self.last_refill = now;
            self.add_credit(earned);
        }
        while !bytes.is_empty() {
            let skipped = self.skipped_bytes.min(bytes.len());
            self.skipped_bytes -= skipped;
            bytes = &bytes[skipped..];
            let part = (HEADER_BYTES - self.header_bytes).min(bytes.len());
            self.header[self.header_bytes..self.header_bytes + part].copy_from_slice(&bytes[..part]);
            self.header_bytes += part;
            bytes = &bytes[part..];
            if self.header_bytes == HEADER_BYTES {
                self.header_bytes = 0;
                let [high, middle, low, kind, ..] = self.header;
                self.skipped_bytes = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                let cost = match kind {
                    DATA | HEADERS | CONTINUATION => 0,
                    SETTINGS | PING => ANSWERED_FRAME_COST,
                    _ => 1,
                };
                self.credit = self.credit.checked_sub(cost).ok_or(ControlFrameFlood)?;
            }
        }
        Ok(())
    }

    fn add_credit(&mut self, credit: u64) {
        self.credit = self.credit.saturating_add(credit).min(MAX_CREDIT);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const PRIORITY: u8 = 2;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        frame.extend(std::iter::repeat_n(0xff, usize::from(length)));
        frame
    }

    fn start() -> (ControlFrameLimit, Instant) {
        let now = Instant::now();
        let mut limit = ControlFrameLimit::new(now);
        limit.record_received(PREFACE, now).unwrap();
        (limit, now)
    }

    /// Sends frames at one moment until they are refused, at most 50,000.
    fn count_accepted(limit: &mut ControlFrameLimit, now: Instant, frame: &[u8]) -> usize {
        (0..50_000).take_while(|_| limit.record_received(frame, now).is_ok()).count()
    }

    #[test]
    fn control_frames_are_limited_and_requests_are_not() {
        for (kind, length, accepted) in [
            (PRIORITY, 5, 10_000),
            (WINDOW_UPDATE, 4, 10_000),
            (PING, 8, 3_333),
            (SETTINGS, 0, 3_333),
            (200, 0, 10_000),
            (HEADERS, 40, 50_000),
            (DATA, 200, 50_000),
        ] {
            let (mut limit, now) = start();
            assert_eq!(count_accepted(&mut limit, now, &frame(kind, length)), accepted, "{kind}");
        }
    }

    #[test]
    fn frames_are_found_in_bytes_of_any_split() {
        let bytes = [frame(DATA, 200), frame(PRIORITY, 5), frame(HEADERS, 9)].concat();
        for size in 1..20 {
            let (mut limit, now) = start();
            for part in bytes.chunks(size) {
                limit.record_received(part, now).unwrap();
            }
            assert_eq!(limit.credit, MAX_CREDIT - 1, "{size}");
        }
    }

    #[test]
    fn downloads_earn_credit_for_window_updates() {
        let (mut limit, now) = start();
        let update = frame(WINDOW_UPDATE, 4);
        for message in 0..100_000 {
            limit.record_sent(9 + 40);
            assert_eq!(
                limit.record_received(&[update.clone(), update.clone()].concat(), now),
                Ok(()),
                "{message}"
            );
        }
    }

    #[test]
    fn answers_to_pings_do_not_pay_for_pings() {
        let (mut limit, now) = start();
        let ping = frame(PING, 8);
        let answered = (0..50_000).take_while(|_| {
            limit.record_sent(9 + 8);
            limit.record_received(&ping, now).is_ok()
        });
        assert!(answered.count() < 10_000);
    }

    #[test]
    fn credit_returns_with_time() {
        let (mut limit, now) = start();
        let priority = frame(PRIORITY, 5);
        for _ in 0..MAX_CREDIT {
            assert_eq!(limit.record_received(&priority, now), Ok(()));
        }
        let later = now + Duration::from_secs(2);
        assert_eq!(count_accepted(&mut limit, later, &priority), 2_000);
    }
}
