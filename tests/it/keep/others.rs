//! Programs that hosts have beside us.
