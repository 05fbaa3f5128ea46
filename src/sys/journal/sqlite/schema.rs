//! The tables of the journal and the lock, and the upgrades from earlier versions.

use crate::sys::sqlite::Schema;

pub const SCHEMA: Schema = Schema { version: 3, create: CREATE, upgrades: &[UPGRADE_TO_2, UPGRADE_TO_3] };

const CREATE: &str = "
    CREATE TABLE journal (
        id INTEGER PRIMARY KEY AUTOINCREMENT, roll TEXT NOT NULL, at TEXT NOT NULL, host TEXT, what TEXT NOT NULL) STRICT;
    CREATE INDEX journal_of_roll ON journal (roll, id);
    CREATE TRIGGER journal_is_append_only BEFORE UPDATE ON journal
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
    CREATE TRIGGER journal_is_kept BEFORE DELETE ON journal
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
    CREATE TABLE lock (
        one INTEGER PRIMARY KEY CHECK (one = 1), holder TEXT NOT NULL, beats INTEGER NOT NULL) STRICT;
    CREATE TABLE notes (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, user TEXT NOT NULL, text TEXT NOT NULL) STRICT;
    CREATE TABLE promotions (
        number INTEGER PRIMARY KEY AUTOINCREMENT, promotion TEXT NOT NULL, at TEXT NOT NULL, what TEXT NOT NULL) STRICT;
    CREATE INDEX promotions_by_promotion ON promotions (promotion, number);
    CREATE TRIGGER promotions_are_append_only BEFORE UPDATE ON promotions
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
    CREATE TRIGGER promotions_are_kept BEFORE DELETE ON promotions
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
    PRAGMA user_version = 3;";

/// Adds the promotions, under the name they had in version 2.
const UPGRADE_TO_2: &str = "
    CREATE TABLE rollouts (
        number INTEGER PRIMARY KEY AUTOINCREMENT, rollout TEXT NOT NULL, at TEXT NOT NULL, what TEXT NOT NULL) STRICT;
    CREATE INDEX rollouts_by_rollout ON rollouts (rollout, number);
    CREATE TRIGGER rollouts_are_append_only BEFORE UPDATE ON rollouts
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
    CREATE TRIGGER rollouts_are_kept BEFORE DELETE ON rollouts
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
    PRAGMA user_version = 2;";

/// Gives the table of promotions its present name; its entries stay as they were written.
const UPGRADE_TO_3: &str = "
    DROP TRIGGER rollouts_are_append_only;
    DROP TRIGGER rollouts_are_kept;
    DROP INDEX rollouts_by_rollout;
    ALTER TABLE rollouts RENAME TO promotions;
    ALTER TABLE promotions RENAME COLUMN rollout TO promotion;
    CREATE INDEX promotions_by_promotion ON promotions (promotion, number);
    CREATE TRIGGER promotions_are_append_only BEFORE UPDATE ON promotions
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
    CREATE TRIGGER promotions_are_kept BEFORE DELETE ON promotions
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
    PRAGMA user_version = 3;";
