//! How hard a bearer token is to guess.

/// The bits that a token needs, so that guesses over the network do not find it.
pub const REQUIRED_TOKEN_BITS: u32 = 80;

/// Estimates the bits of a token: its characters times the bits of its alphabet. Characters that repeat or continue the one
/// before, and repetitions of the whole, count once.
pub fn estimate_token_bits(token: &str) -> u32 {
    let characters: Vec<u32> = token.chars().map(u32::from).collect();
    let period = (1..=characters.len()).find(|period| {
        characters.len().is_multiple_of(*period)
            && characters[*period..] == characters[..characters.len() - period]
    });
    let once = &characters[..period.unwrap_or(0)];
    let continued = once.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 1).count();
    let alphabet: std::collections::BTreeSet<&u32> = once.iter().collect();
    let count = u32::try_from(once.len() - continued).unwrap_or(u32::MAX);
    // Bits of the alphabet's size to the fourth power are quarters of a bit.
    let size = u64::try_from(alphabet.len()).unwrap_or(1).clamp(1, 1 << 15);
    count.saturating_mul(size.pow(4).ilog2()) / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_tokens_pass_and_simple_ones_do_not() {
        let random = [
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "1f3870be274f6c49b3e31a0c6728957f",
            "kJ8vQ2mZt5XwPq9LsR4dYb",
            "a token of the lab, long enough",
        ];
        for token in random {
            assert!(
                estimate_token_bits(token) >= REQUIRED_TOKEN_BITS,
                "{token}: {}",
                estimate_token_bits(token)
            );
        }
        let simple = [
            "",
            "x",
            "hunter2",
            "0123456789abcdef",
            "abcdefghijklmnopqrstuvwxyz0123456789",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "passwordpasswordpasswordpasswordpassword",
            "changeme-changeme-",
        ];
        for token in simple {
            assert!(
                estimate_token_bits(token) < REQUIRED_TOKEN_BITS,
                "{token}: {}",
                estimate_token_bits(token)
            );
        }
    }
}
