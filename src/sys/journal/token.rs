//! Tokens of writes: a store carries out each once, however often a client without an answer sends it.

use ring::rand::{SecureRandom, SystemRandom};

/// Makes 128 random bits: they identify one write.
pub fn make_token() -> String {
    let mut bytes = [0; 16];
    // Without randomness a repeated write could be there twice, which readers of the journal bear.
    let _ = SystemRandom::new().fill(&mut bytes);
    u128::from_be_bytes(bytes).to_string()
}
