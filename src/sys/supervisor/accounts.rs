//! The numbers of the accounts of services, for hosts where no user of that name exists: `accounts.json` in the state directory.
//! A service keeps its number for good, since files may belong to it, and no other service gets it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User};

use crate::model::account::{Account, build_account_name, choose_uid};
use crate::model::name::ServiceName;

#[derive(Debug, Clone)]
pub struct AccountFile {
    path: PathBuf,
}

impl AccountFile {
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("accounts.json") }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the account of a service: the recorded one, else that of the user with its name, else a number that is free.
    pub fn find_or_add(&self, service: &ServiceName) -> io::Result<Account> {
        if let Some(account) = self.read()?.get(service.as_str()) {
            return Ok(*account);
        }
        let _ours = self.lock()?;
        let mut accounts = self.read()?;
        if let Some(account) = accounts.get(service.as_str()) {
            return Ok(*account);
        }
        let account = match User::from_name(&build_account_name(service))? {
            Some(user) => Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() },
            None => choose_account(&accounts)?,
        };
        accounts.insert(service.to_string(), account);
        self.write(&accounts)?;
        Ok(account)
    }

    fn lock(&self) -> io::Result<File> {
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let path = self.path.with_extension("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.lock()?;
        Ok(file)
    }

    fn read(&self) -> io::Result<BTreeMap<String, Account>> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error),
        }
    }

    fn write(&self, accounts: &BTreeMap<String, Account>) -> io::Result<()> {
        let beside = self.path.with_extension("json.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(accounts)?)?;
        file.sync_data()?;
        fs::rename(beside, &self.path)?;
        // A number that is lost with the power would be given to another service.
        fs::File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn choose_account(accounts: &BTreeMap<String, Account>) -> io::Result<Account> {
    let taken = accounts.values().flat_map(|account| [account.uid, account.gid]).collect();
    let maps = ["/proc/self/uid_map", "/proc/self/gid_map"].map(|file| fs::read_to_string(file).ok());
    let is_mapped = |id: u32| maps.iter().flatten().all(|map| contains_id(map, id));
    let is_unused = |id: u32| {
        matches!(User::from_uid(Uid::from_raw(id)), Ok(None))
            && matches!(Group::from_gid(Gid::from_raw(id)), Ok(None))
    };
    let id = choose_uid(&taken, |id| is_mapped(id) && is_unused(id));
    let id = id.ok_or_else(|| io::Error::other("no number for another account is free"))?;
    Ok(Account { uid: id, gid: id })
}

/// Whether a user namespace has this number (user_namespaces(7)): a container may end at 65535.
fn contains_id(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().unwrap_or(0));
        let (first, _, count) = (numbers.next(), numbers.next(), numbers.next());
        first.zip(count).is_some_and(|(first, count)| (first..first + count).contains(&u64::from(id)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_keeps_its_number_and_no_two_services_share_one() {
        let dir = tempfile::tempdir().unwrap();
        let find =
            |service: &str| AccountFile::new(dir.path()).find_or_add(&service.parse().unwrap()).unwrap();
        let (shop, blog) = (find("swm-shop"), find("swm-blog"));
        assert!(shop.uid != blog.uid && shop.gid != blog.gid && !shop.is_root());
        assert_eq!((find("swm-shop"), find("swm-blog")), (shop, blog));
        let services: Vec<String> = (0..8).map(|number| format!("swm-{number}")).collect();
        let uids = std::thread::scope(|scope| {
            let threads: Vec<_> = services.iter().map(|service| scope.spawn(|| find(service).uid)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect::<std::collections::BTreeSet<_>>()
        });
        assert_eq!(uids.len(), 8);
        assert_eq!(
            services.iter().map(|service| find(service).uid).collect::<std::collections::BTreeSet<_>>(),
            uids
        );
    }

    #[test]
    fn damaged_file_gives_no_number_twice() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("accounts.json"), "{").unwrap();
        assert!(AccountFile::new(dir.path()).find_or_add(&"shop".parse().unwrap()).is_err());
    }

    #[test]
    fn numbers_outside_of_the_user_namespace_are_not_mapped() {
        let all = "         0          0 4294967295\n";
        assert!(contains_id(all, 0) && contains_id(all, 90_000));
        let rootless = "0 1000 1\n1 100000 65536\n";
        assert!(contains_id(rootless, 50_000) && contains_id(rootless, 65_536));
        assert!(!contains_id(rootless, 65_537) && !contains_id("", 0) && !contains_id("0", 0));
    }
}
