//! `switchman lab`: a rehearsal on one machine, and the base of the end-to-end tests. Real HAProxy, real nginx, real
//! kernel rules, in network namespaces of its own. Everything is named `swm-` and removed again; nothing else is touched.

pub mod app;
mod command;
pub mod connect_load;
pub mod demo;
pub mod error;
mod files;
pub mod hosts;
pub mod load;
pub mod namespaces;
pub mod operator;
pub mod options;
pub mod process;
#[cfg(test)]
mod thousand_hosts;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::model::deployment::WebServer;
use crate::model::name::HostName;
use crate::model::ports::{Port, Ports};
use crate::sys::exec::{Output, Program};
use crate::templates::working_set::{BalancerParams, WorkingSet};

pub use error::LabError;
pub use options::{LabOptions, SECOND_SERVICE};

use error::to_load_error;
use files::{make_dir, write};
use hosts::{HostSetup, WebHost};
use namespaces::Namespaces;
use options::SERVICE;
use process::Process;

/// The parent directory of the labs' configuration, logs and state, one directory each.
pub const RUN_DIR: &str = "/run/switchman-lab";
/// In the directory of a lab that was left running.
const UP_FILE: &str = "up";
/// Lines of one log that a failed rehearsal shows.
const MAX_LOG_LINES: usize = 20;

/// A running lab. Dropping it takes it down, unless [`Lab::keep_running`] was called.
#[derive(Debug)]
pub struct Lab {
    options: LabOptions,
    dir: PathBuf,
    net: Namespaces,
    pub hosts: Vec<WebHost>,
    haproxies: Vec<Process>,
    is_kept: bool,
    _lock: UnixListener,
}

impl Lab {
    /// Builds the lab, after removing what a crashed one of the same name left behind. Takes about a second.
    pub async fn start(options: LabOptions) -> Result<Self, LabError> {
        let lock = acquire_lock(&options.name)?;
        let dir = Path::new(RUN_DIR).join(options.name.as_str());
        remove(&options.name, &dir).await?;
        let net = Namespaces::new(&options.name, options.hosts, options.balancers);
        // If this function ends early from here on, the drop takes down what there is by then.
        let mut lab =
            Self { options, dir, net, hosts: vec![], haproxies: vec![], is_kept: false, _lock: lock };
        make_dir(&lab.dir)?;
        lab.net.create().await?;
        let setup = lab.build_host_setup()?;
        for host in lab.net.web_hosts() {
            lab.hosts.push(WebHost::start(&setup, host).await?);
        }
        for balancer in lab.net.balancers().collect::<Vec<_>>() {
            lab.start_haproxy(&balancer).await?;
        }
        Ok(lab)
    }

    /// Leaves the lab running when this value is dropped.
    pub fn keep_running(mut self) -> Result<(), LabError> {
        write(&self.dir.join(UP_FILE), "")?;
        self.is_kept = true;
        Ok(())
    }

    /// Takes the lab down and returns an error if something could not be removed.
    pub async fn tear_down(mut self) -> Result<(), LabError> {
        self.is_kept = true;
        remove(&self.options.name, &self.dir).await
    }

    /// Runs switchman on a web host, as its operator would.
    pub async fn run_switchman(&self, host: &str, args: &[&str]) -> Result<Output, LabError> {
        Ok(self.switchman_program(host, args).run(b"", Duration::from_mins(2)).await?)
    }

    /// The command line of [`Lab::switchman`].
    pub fn switchman_program(&self, host: &str, args: &[&str]) -> Program {
        let dir = self.dir.join(host);
        self.net
            .program(host, &self.options.switchman)
            .arg("--config")
            .arg(dir.join("switchman.yaml"))
            .arg("--state-dir")
            .arg(dir.join("state"))
            .arg("--releases-dir")
            .arg(dir.join("releases"))
            .args(["--local", "--no-color"])
            .args(args)
            .env("XTABLES_LOCKFILE", dir.join("xtables.lock"))
    }

    /// A program in one of the lab's namespaces: `lb`, `client`, `web1`...
    pub fn program(&self, node: &str, program: impl AsRef<std::ffi::OsStr>) -> Program {
        self.net.program(node, program)
    }

    /// The namespace's file, to enter it.
    pub fn namespace_path(&self, node: &str) -> PathBuf {
        self.net.path(node)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The program that the hosts run.
    pub fn switchman(&self) -> &Path {
        &self.options.switchman
    }

    /// Returns the names of the web hosts.
    pub fn host_names(&self) -> Vec<String> {
        self.hosts.iter().map(|host| host.host.name.to_string()).collect()
    }

    /// Returns the addresses that clients use: every load balancer.
    pub fn targets(&self) -> Vec<SocketAddr> {
        self.net.balancers().map(|balancer| SocketAddr::new(self.net.address(&balancer), 80)).collect()
    }

    /// Returns the path of the socket where a load balancer takes commands.
    pub fn admin_socket_path(&self, balancer: &str) -> PathBuf {
        self.dir.join(balancer).join("admin.sock")
    }

    /// Returns the requests that did not end well by HAProxy's logs, and the lines of the vhosts' error logs; the last of each.
    pub fn read_log_excerpts(&self) -> Vec<String> {
        let mut clues = Vec::new();
        let mut read = |who: &str, file: &Path, keep: fn(&str) -> bool| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let lines: Vec<&str> = text.lines().filter(|line| keep(line)).collect();
            clues.extend(lines.iter().rev().take(MAX_LOG_LINES).rev().map(|line| format!("{who}: {line}")));
        };
        for balancer in self.net.balancers() {
            read(&balancer, &self.dir.join(&balancer).join("haproxy.log"), is_abnormal_end);
        }
        for host in &self.hosts {
            let name = host.host.name.as_str();
            for role in ["main", "backup"] {
                let file = self.dir.join(name).join(format!("{SERVICE}-{role}.error.log"));
                read(&format!("{name} {role}"), &file, |_| true);
            }
        }
        clues
    }

    /// Stops a host's main vhost, letting requests end, and starts another version of it.
    pub async fn replace_main(&mut self, at: usize, version: &str) -> Result<(), LabError> {
        let setup = self.build_host_setup()?;
        self.hosts[at].replace_main(&setup, version).await
    }

    /// Stops a host's main vhost, letting requests end.
    pub async fn stop_main(&mut self, at: usize) -> Result<(), LabError> {
        self.hosts[at].stop_main().await
    }

    /// Kills a host's backup vhost with all its requests in flight.
    pub async fn kill_backup(&mut self, at: usize) -> Result<(), LabError> {
        self.hosts[at].kill_backup().await
    }

    /// Starts a host's backup vhost again.
    pub async fn start_backup(&mut self, at: usize) -> Result<(), LabError> {
        let setup = self.build_host_setup()?;
        self.hosts[at].start_backup(&setup).await
    }

    fn build_host_setup(&self) -> Result<HostSetup, LabError> {
        Ok(HostSetup {
            site: self.build_site("lb1")?,
            net: self.net.clone(),
            dir: self.dir.clone(),
            switchman: self.options.switchman.clone(),
        })
    }

    /// The templates' values, as seen by one of the load balancers.
    fn build_site(&self, balancer: &str) -> Result<WorkingSet, LabError> {
        let lb = self.net.address(balancer);
        let dir = self.dir.join(balancer);
        make_dir(&dir)?;
        let admin_socket = self.admin_socket_path(balancer).display().to_string();
        let balancer = BalancerParams {
            log: "stdout format raw local0".into(),
            bind: format!("{lb}:80"),
            stats: format!("{lb}:8404"),
            backend: "servers".into(),
            admin_socket,
            read_only_socket: Some(SocketAddr::new(lb, 9999)),
            state_file: dir.join("servers.state").display().to_string(),
            check: self.options.check,
        };
        Ok(WorkingSet {
            slots: None,
            project: SERVICE.parse().map_err(|_| to_load_error("no name"))?,
            server: WebServer::Nginx,
            ports: build_ports(8888, 8080, 80)?,
            hosts: self.net.web_hosts(),
            health_path: "/health".into(),
            health_host: "shop.example".into(),
            root: self.dir.join("site").display().to_string(),
            run_dir: self.dir.display().to_string(),
            log_dir: self.dir.display().to_string(),
            workers: "1".into(),
            balancer,
        })
    }

    /// The frontend and backend of the second service, on the port that its clients call.
    fn render_second_service(&self, balancer: &str) -> Result<String, LabError> {
        let mut site = self.build_site(balancer)?;
        site.project = SECOND_SERVICE.parse().map_err(|_| to_load_error("no name"))?;
        site.ports = build_ports(8889, 8081, 81)?;
        site.balancer.bind = format!("{}:81", self.net.address(balancer));
        SECOND_SERVICE.clone_into(&mut site.balancer.backend);
        let text = site.render_haproxy()?;
        let from = text.find(&format!("frontend {SECOND_SERVICE}")).unwrap_or(0);
        // HAProxy 3.3 and later refuse a frontend and a backend of one name.
        let frontend = format!("frontend {SECOND_SERVICE}");
        Ok(text[from..].replacen(&frontend, &format!("{frontend}-clients"), 1))
    }

    async fn start_haproxy(&mut self, balancer: &str) -> Result<(), LabError> {
        let file = self.dir.join(balancer).join("haproxy.cfg");
        let second = if self.options.has_second_service {
            self.render_second_service(balancer)?
        } else {
            String::new()
        };
        let text = format!("{}\n{second}", self.build_site(balancer)?.render_haproxy()?);
        let keywords = self.options.server_keywords;
        write(&file, &text.replace("    default-server ", &format!("    default-server {keywords} ")))?;
        let process = self.spawn_haproxy(balancer, &[]).await?;
        self.haproxies.push(process);
        Ok(())
    }

    async fn spawn_haproxy(&self, balancer: &str, more: &[String]) -> Result<Process, LabError> {
        let dir = self.dir.join(balancer);
        let program = self.net.program(balancer, "haproxy").arg("-db").arg("-f").arg(dir.join("haproxy.cfg"));
        let process =
            Process::start(&format!("{balancer} haproxy"), &program.args(more), &dir.join("haproxy.log"))?;
        let socket = self.admin_socket_path(balancer);
        let answers = async || tokio::net::UnixStream::connect(&socket).await.is_ok();
        process.wait_until("HAProxy's admin socket", answers).await?;
        Ok(process)
    }

    /// Reloads HAProxy as a service manager does: the server states saved, the listening sockets handed over, the old process left to
    /// finish what it has.
    pub async fn reload_haproxy(&mut self, at: usize) -> Result<(), LabError> {
        let balancer = format!("lb{}", at + 1);
        let path = self.admin_socket_path(&balancer);
        let failed = |source| LabError::Files { verb: "query", path: path.clone(), source };
        let states = send_admin_command(&path, "show servers state\n").await.map_err(failed)?;
        write(&self.dir.join(&balancer).join("servers.state"), &states)?;
        let socket = path.display().to_string();
        let old = self.haproxies[at].pid().map(|pid| pid.to_string()).unwrap_or_default();
        let fresh = self.spawn_haproxy(&balancer, &["-x".into(), socket, "-sf".into(), old]).await?;
        // The old one ends by itself when its last connection does.
        let _finishing = std::mem::replace(&mut self.haproxies[at], fresh);
        Ok(())
    }

    /// Restarts HAProxy: all of its connections are cut; the new process starts without any memory of the old one.
    pub async fn restart_haproxy(&mut self, at: usize) -> Result<(), LabError> {
        let balancer = format!("lb{}", at + 1);
        let old = self.haproxies.remove(at);
        old.stop(nix::sys::signal::Signal::SIGTERM).await?;
        let fresh = self.spawn_haproxy(&balancer, &[]).await?;
        self.haproxies.insert(at, fresh);
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.is_kept {
            // On an error path or a Ctrl-C: no runtime may be left to wait with, so the tools are waited for here.
            namespaces::remove_blocking(&self.options.name);
            let _ = fs::remove_dir_all(&self.dir);
            let _ = fs::remove_dir(RUN_DIR);
        }
    }
}

fn build_ports(check: u16, main: u16, backup: u16) -> Result<Ports, LabError> {
    let port = |number| Port::new(number).ok_or_else(|| to_load_error("no port"));
    Ok(Ports { check: port(check)?, main: port(main)?, backup: port(backup)? })
}

/// Whether a lab was left running, and no reboot has ended it since.
pub fn is_up(name: &HostName) -> bool {
    Path::new(RUN_DIR).join(name.as_str()).join(UP_FILE).exists() && namespaces::exist(name)
}

/// Removes a lab by name, regardless of the process that built it: its processes are the ones inside its namespaces.
pub async fn remove(name: &HostName, dir: &Path) -> Result<(), LabError> {
    namespaces::remove(name).await?;
    let removed = fs::remove_dir_all(dir);
    // Not empty while another lab is up.
    let _ = fs::remove_dir(RUN_DIR);
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(LabError::Files { verb: "remove", path: dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Takes a lab down that no switchman holds.
pub async fn tear_down(name: &HostName) -> Result<(), LabError> {
    let _lock = acquire_lock(name)?;
    let dir = Path::new(RUN_DIR).join(name.as_str());
    let known = list_names();
    if !known.contains(name.as_str()) && !dir.exists() && !namespaces::exist(name) {
        let known = known.into_iter().collect();
        return Err(LabError::Unknown { name: name.to_string(), known });
    }
    remove(name, &dir).await
}

/// Lists the labs of this machine, also those that a crash left behind.
fn list_names() -> BTreeSet<String> {
    let entries = fs::read_dir(RUN_DIR).into_iter().flatten().flatten();
    let dirs = entries.filter_map(|entry| entry.file_name().into_string().ok());
    dirs.chain(namespaces::list_labs()).collect()
}

/// Makes sure that a single switchman builds, rehearses in, or removes a lab of a name: the kernel removes an abstract socket (unix(7)) with the
/// process that holds it, and leaves no file.
fn acquire_lock(name: &HostName) -> Result<UnixListener, LabError> {
    if !nix::unistd::Uid::effective().is_root() {
        return Err(LabError::NoPrivilege { reason: "network namespaces are made by root".to_owned() });
    }
    let address = std::os::unix::net::SocketAddr::from_abstract_name(format!("swm-{name}-lock"));
    let held = address.and_then(|address| UnixListener::bind_addr(&address));
    held.map_err(|_| LabError::InUse { name: name.to_string() })
}

/// Sends a command to HAProxy's admin socket, and reads the answer to its end.
async fn send_admin_command(socket: &Path, command: &str) -> io::Result<String> {
    let mut stream = tokio::net::UnixStream::connect(socket).await?;
    stream.write_all(command.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Whether a line of HAProxy's log (configuration manual, 8.2.3) is a request whose termination state is not "normal end", or a state of a server.
fn is_abnormal_end(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let state = words.find(|word| {
        word.len() == 4
            && word.chars().all(|letter| letter == '-' || letter.is_ascii_alphabetic())
            && word.contains('-')
    });
    state.is_none_or(|state| !state.starts_with("--"))
}
