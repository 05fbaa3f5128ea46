//! A share of the users by HAProxy's own weights, between hosts whose main is the new version and the others.

use crate::model::balancer::{BackendView, ServerState, ServerView};
use crate::model::percent::Percent;

/// The weight of the heavier side: HAProxy's default of 1 leaves no room below it (`weight 50%` of 1 is 0;
/// docs/design/measurements.md#m36).
const BASE_WEIGHT: u32 = 100;

/// The weight of every server line of each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    pub canaries: u32,
    pub mains: u32,
    /// Returns the share that these weights come to: whole numbers do not reach every share.
    pub share: Percent,
}

/// Computes the share of the users without a cookie that a server line gets now, from the weights of the lines that are UP.
/// `None` where no line outside the backups is UP: then the backups get all.
pub fn compute_share(view: &BackendView, server: &str) -> Option<Percent> {
    let is_chosen = |server: &&ServerView| {
        let is_active =
            matches!(server.state, ServerState::Up | ServerState::GoingDown | ServerState::NoCheck);
        !server.backup && is_active
    };
    let weight = |servers: &mut dyn Iterator<Item = &ServerView>| -> u64 {
        servers.map(|server| u64::from(server.weight)).sum()
    };
    let all = weight(&mut view.servers().iter().filter(is_chosen));
    let mine = weight(&mut view.find_server(server).into_iter().filter(is_chosen));
    let parts = mine.checked_mul(u64::from(Percent::FULL.parts()))?.checked_div(all)?;
    u16::try_from(parts).ok().map(Percent::from_parts)
}

/// Why there are no such weights.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    #[error("the version is main on none of these hosts")]
    NoCanary,
    #[error("the version is main on all of these hosts: no other version can get the rest")]
    NoMain,
    #[error(
        "{share} of the users is less than one part in {BASE_WEIGHT} of a server's weight with {canaries} of {all} hosts"
    )]
    TooFine { share: Percent, canaries: u32, all: u32 },
}

/// Weights from a base of 100 that come closest to the share. New users follow weights; users with a cookie stay.
pub fn compute_weights(share: Percent, canaries: u32, mains: u32) -> Result<Weights, WeightsError> {
    if canaries == 0 {
        return Err(WeightsError::NoCanary);
    }
    if mains == 0 {
        return Err(WeightsError::NoMain);
    }
    let of = |wc: u32, wm: u32| {
        let (mine, all) = (u64::from(canaries) * u64::from(wc), u64::from(mains) * u64::from(wm));
        let all = mine + all;
        let parts = (mine * u64::from(Percent::WHOLE) + all / 2) / all;
        let share = Percent::from_parts(u16::try_from(parts).unwrap_or(Percent::WHOLE));
        Weights { canaries: wc, mains: wm, share }
    };
    if share == Percent::ZERO || share == Percent::FULL {
        return Ok(if share == Percent::ZERO { of(0, BASE_WEIGHT) } else { of(BASE_WEIGHT, 0) });
    }
    let off = |weights: &Weights| weights.share.parts().abs_diff(share.parts());
    let sides = (1..=BASE_WEIGHT)
        .map(|light| of(light, BASE_WEIGHT))
        .chain((1..BASE_WEIGHT).map(|light| of(BASE_WEIGHT, light)));
    let best = sides.min_by_key(off).unwrap_or_else(|| of(BASE_WEIGHT, BASE_WEIGHT));
    // Half as much again, or half of it, is another share.
    let smaller = share.parts().min(Percent::WHOLE - share.parts());
    if u32::from(off(&best)) * 2 > u32::from(smaller) {
        return Err(WeightsError::TooFine { share, canaries, all: canaries + mains });
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::example::make_server;

    fn compute(share: &str, canaries: u32, mains: u32) -> (u32, u32, String) {
        let found = compute_weights(share.parse().unwrap(), canaries, mains).unwrap();
        (found.canaries, found.mains, found.share.to_string())
    }

    #[test]
    fn weights_are_those_of_a_base_of_100() {
        assert_eq!(compute("25", 1, 3), (100, 100, "25%".into()));
        assert_eq!(compute("25", 2, 2), (33, 100, "24.81%".into()));
        assert_eq!(compute("10", 1, 1), (11, 100, "9.91%".into()));
        assert_eq!(compute("80", 1, 1), (100, 25, "80%".into()));
        assert_eq!(compute("0", 1, 1), (0, 100, "0%".into()));
        assert_eq!(compute("100", 1, 1), (100, 0, "100%".into()));
    }

    #[test]
    fn weights_reject_unreachable_shares() {
        let share = "0.1".parse().unwrap();
        assert!(matches!(compute_weights(share, 1, 1), Err(WeightsError::TooFine { .. })));
        assert_eq!(compute_weights(Percent::FULL, 0, 4), Err(WeightsError::NoCanary));
        assert_eq!(compute_weights(Percent::FULL, 4, 0), Err(WeightsError::NoMain));
    }

    proptest! {
        #[test]
        fn partial_share_never_rounds_to_zero_or_all(parts in 1u16..10_000, canaries in 1u32..20, mains in 1u32..20) {
            if let Ok(found) = compute_weights(Percent::from_parts(parts), canaries, mains) {
                prop_assert!(found.canaries.max(found.mains) == BASE_WEIGHT && found.canaries.min(found.mains) > 0);
                let smaller = parts.min(10_000 - parts);
                prop_assert!(found.share.parts().abs_diff(parts) * 2 <= smaller, "{found:?}");
            }
        }
    }

    #[test]
    fn share_is_by_weight_among_lines_that_are_up() {
        let server = |name: &str, state, weight| ServerView { weight, ..make_server(name, state) };
        let backup = ServerView { backup: true, ..server("backup-web1", ServerState::Up, 100) };
        let view = BackendView::new(vec![
            server("main-web1", ServerState::Up, 25),
            server("main-web2", ServerState::GoingDown, 75),
            server("main-web3", ServerState::Down, 100),
            backup.clone(),
        ]);
        let share = |server: &str| compute_share(&view, server).map(|share| share.to_string());
        assert_eq!(share("main-web1").as_deref(), Some("25%"));
        assert_eq!(share("main-web2").as_deref(), Some("75%"));
        assert_eq!(share("main-web3").as_deref(), Some("0%"));
        let down = BackendView::new(vec![server("main-web1", ServerState::Down, 25), backup]);
        assert_eq!(compute_share(&down, "main-web1"), None);
    }
}
