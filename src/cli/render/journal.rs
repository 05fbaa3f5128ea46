//! A journal that was moved to another store.

use std::path::Path;

use super::renderer::Renderer;
use crate::ops::fleet::journal_move::MovedJournal;

impl Renderer {
    /// `location`: the other store as `--to` named it. `file`: the configuration of this operator.
    pub fn print_moved_journal(&self, moved: &MovedJournal, location: &str, file: &Path) {
        self.print("journal-move", moved, || {
            let MovedJournal { from, to, all, copied } = moved;
            format!(
                "the journal is in {to}: {all}, read back and compared ({copied} copied by this run)\n\
                 {from} is locked, and stays as it is\n\
                 write this line into {} of every operator of this fleet:\njournal: {location}\n",
                file.display(),
            )
        });
    }
}
