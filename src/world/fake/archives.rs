//! Archives that need no file.

use std::path::Path;

use crate::model::deployment::Digest;
use crate::world::archives::{ArchiveError, Archives, Packed};

/// Everything packs to a digest of its own name.
pub struct FakeArchives;

impl Archives for FakeArchives {
    fn pack(&self, source: &Path) -> Result<Packed, ArchiveError> {
        let digest = Digest(source.display().to_string());
        Ok(Packed { path: source.to_owned(), digest, bytes: 1, held: None })
    }
}
