//! Who answers a request: main, or the canary.

use hyper::header::{COOKIE, HeaderMap};

use super::sampler::Sampler;
use crate::model::percent::Percent;
use crate::model::proxy::{Canary, FieldMatch, Sticky};

/// A number below [`Percent::WHOLE`]. Its user gets the canary while it is below the share's parts: a share that grows takes
/// no user away from the canary.
pub type Bucket = u16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteChoice {
    pub is_canary: bool,
    /// The bucket for a user who has none yet, set in the cookie of [`cookie_name`].
    pub new_bucket: Option<Bucket>,
}

impl RouteChoice {
    const fn from_canary(is_canary: bool) -> Self {
        Self { is_canary, new_bucket: None }
    }
}

/// How far the shares are.
#[derive(Debug, Clone, Default)]
pub struct ShareCounters {
    requests: Sampler,
    users: Sampler,
    /// Users so far that got the canary, and main.
    assigned_users: [u32; 2],
}

pub fn format_cookie_name(service: &str) -> String {
    format!("swm_{service}")
}

/// Marks first; then a user's bucket; then the share of requests.
pub fn choose_route(
    canary: &Canary,
    cookie: &str,
    headers: &HeaderMap,
    shares: &mut ShareCounters,
) -> RouteChoice {
    let marked = canary.header.as_ref().is_some_and(|mark| matches_header(mark, headers))
        || canary.cookie.as_ref().is_some_and(|mark| matches_cookie(mark, headers));
    if marked {
        return RouteChoice::from_canary(true);
    }
    let Some(share) = canary.percent else { return RouteChoice::from_canary(false) };
    let bucket = match &canary.sticky {
        None => None,
        Some(Sticky::Cookie) => match read_bucket(cookie, headers) {
            None => return shares.assign_user(share),
            known => known,
        },
        Some(Sticky::Header(name)) => {
            headers.get(name.as_str()).map(|value| hash_to_bucket(value.as_bytes()))
        }
    };
    RouteChoice::from_canary(match bucket {
        Some(bucket) => bucket < share.parts(),
        None => shares.requests.sample(share),
    })
}

impl ShareCounters {
    /// Exactly the share of new users gets the canary; within each side, buckets are spread evenly, so that a later share
    /// finds its users too.
    fn assign_user(&mut self, share: Percent) -> RouteChoice {
        let canary = self.users.sample(share);
        let (from, to) = if canary { (0, share.parts()) } else { (share.parts(), Percent::WHOLE) };
        let user = &mut self.assigned_users[usize::from(!canary)];
        let bucket = from + spread_evenly(*user, to - from);
        *user = user.wrapping_add(1);
        RouteChoice { is_canary: canary, new_bucket: Some(bucket) }
    }
}

/// The n-th point of a sequence that fills 0..below evenly: multiples of the golden ratio's fraction.
fn spread_evenly(n: u32, below: u16) -> u16 {
    // 2^32 divided by the golden ratio: the top bits of the product are the fraction.
    let fraction = u64::from(n.wrapping_mul(2_654_435_769));
    u16::try_from((fraction * u64::from(below)) >> 32).unwrap_or(0)
}

fn matches_header(mark: &FieldMatch, headers: &HeaderMap) -> bool {
    headers.get_all(mark.name.as_str()).iter().any(|found| match &mark.value {
        // Present is enough, even empty (seed row E7).
        None => true,
        Some(wanted) => found.as_bytes() == wanted.as_bytes(),
    })
}

fn matches_cookie(mark: &FieldMatch, headers: &HeaderMap) -> bool {
    parse_cookies(headers).any(|(name, found)| {
        name == mark.name.as_bytes() && mark.value.as_ref().is_none_or(|wanted| wanted.as_bytes() == found)
    })
}

fn read_bucket(cookie: &str, headers: &HeaderMap) -> Option<Bucket> {
    let mut found = parse_cookies(headers).filter(|(name, _)| *name == cookie.as_bytes());
    let text = found.find_map(|(_, value)| std::str::from_utf8(value).ok())?;
    let plain = text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// Names and values of all cookies (RFC 6265, 5.4): parts between `;`, with any bytes.
fn parse_cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let parts = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    parts.map(|part| {
        let part = part.trim_ascii();
        let at = part.iter().position(|byte| *byte == b'=');
        at.map_or((part, &b""[..]), |at| (&part[..at], &part[at + 1..]))
    })
}

/// FNV-1a, folded: the same on every host and in every version of switchman, so that a user stays in the same bucket.
fn hash_to_bucket(value: &[u8]) -> Bucket {
    let hash = value.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // Its low bits alone are weak.
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    u16::try_from(mixed % u64::from(Percent::WHOLE)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
