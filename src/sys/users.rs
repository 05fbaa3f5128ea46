//! The users of this machine.

use nix::unistd::User;

use crate::model::account::Account;
use crate::world::runner::RunnerError;

/// Finds a user by name.
pub(super) fn find_account(user: &str) -> Result<Option<Account>, RunnerError> {
    let found = User::from_name(user)
        .map_err(|error| RunnerError::NoAccount { user: user.to_owned(), reason: error.to_string() })?;
    Ok(found.map(|found| Account { uid: found.uid.as_raw(), gid: found.gid.as_raw() }))
}
