//! Traffic through the rules while they are taken away and put back.
