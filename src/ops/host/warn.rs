//! Warnings of the host's stories.

use crate::world::HostWorld;
use crate::world::reporter::Event;

pub fn warn(world: &HostWorld, text: String) {
    world.reporter.report(&Event::Warning { text });
}
