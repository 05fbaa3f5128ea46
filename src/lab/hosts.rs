//! The web hosts of the lab: two nginx from `vhosts/`, an application after each, and the host's switchman.yaml.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::error::{LabError, to_load_error};
use super::files::{make_dir, write};
use super::namespaces::Namespaces;
use super::options::SERVICE;
use super::process::Process;
use crate::model::health::Health;
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::sys::probe::HttpProbe;
use crate::templates::working_set::{VhostRole, WorkingSet};
use crate::world::probe::Probe;

/// The version of both vhosts when a lab starts.
const FIRST_VERSION: &str = "1.0.0";

/// A web host with its two vhosts.
#[derive(Debug)]
pub struct WebHost {
    pub host: Host,
    main: Option<Vhost>,
    backup: Option<Vhost>,
}

/// The values that web hosts are built from.
#[derive(Debug, Clone)]
pub(super) struct HostSetup {
    pub site: WorkingSet,
    pub net: Namespaces,
    /// The lab's directory.
    pub dir: PathBuf,
    pub switchman: PathBuf,
}

/// nginx and the application behind it.
#[derive(Debug)]
struct Vhost {
    nginx: Process,
    app: Process,
}

impl WebHost {
    pub(super) async fn start(setup: &HostSetup, host: Host) -> Result<Self, LabError> {
        let dir = setup.dir.join(host.name.as_str());
        make_dir(&dir)?;
        write(&dir.join("switchman.yaml"), &setup.site.render_yaml(&setup.net.admin_addresses())?)?;
        write(&dir.join("replace-main.sh"), &render_replace_script(&dir, &setup.switchman, &host.name))?;
        let main = Vhost::start(setup, &host, VhostRole::Main, FIRST_VERSION).await?;
        let backup = Vhost::start(setup, &host, VhostRole::Backup, FIRST_VERSION).await?;
        Ok(Self { host, main: Some(main), backup: Some(backup) })
    }

    pub(super) async fn replace_main(&mut self, setup: &HostSetup, version: &str) -> Result<(), LabError> {
        self.stop_main().await?;
        self.main = Some(Vhost::start(setup, &self.host, VhostRole::Main, version).await?);
        Ok(())
    }

    /// Stops nginx first, gracefully; then the application, which gets no requests any more.
    pub(super) async fn stop_main(&mut self) -> Result<(), LabError> {
        match self.main.take() {
            Some(vhost) => vhost.stop(Signal::SIGQUIT).await,
            None => Ok(()),
        }
    }

    /// Kills the backup vhost with all its requests in flight.
    pub(super) async fn kill_backup(&mut self) -> Result<(), LabError> {
        match self.backup.take() {
            Some(vhost) => vhost.stop(Signal::SIGTERM).await,
            None => Ok(()),
        }
    }

    pub(super) async fn start_backup(&mut self, setup: &HostSetup) -> Result<(), LabError> {
        self.backup = Some(Vhost::start(setup, &self.host, VhostRole::Backup, FIRST_VERSION).await?);
        Ok(())
    }
}

/// Renders the command that a roll runs on a host of the lab, with the version as its argument: the main vhost is replaced, gracefully, nginx
/// first, then the application, which gets no requests any more. May be killed and run again at any point.
fn render_replace_script(dir: &Path, switchman: &Path, host: &HostName) -> String {
    format!(
        r#"#!/bin/sh
set -eu
cd {dir}
# Waits until the process has ended or is a zombie that another process has yet to reap.
wait_for_end() {{
    tries=0
    while grep -q '^State:' /proc/$1/status 2>/dev/null && ! grep -q '^State:.Z' /proc/$1/status 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 400 ] || exit 7
        sleep 0.05
    done
}}
end() {{
    [ -s "$1" ] || return 0
    pid=$(cat "$1")
    kill "$2" "$pid" 2>/dev/null || return 0
    wait_for_end "$pid"
}}
end {service}-main.pid -QUIT
end main-app.pid -TERM
setsid {switchman} lab app --listen 127.0.0.1:9001 --host {host} --vhost main --version "$1" </dev/null >>main-app.log 2>&1 &
echo $! >main-app.pid
nginx -c {dir}/main.conf </dev/null >>main-nginx.log 2>&1
"#,
        dir = dir.display(),
        switchman = switchman.display(),
        service = SERVICE,
    )
}

impl Vhost {
    /// Ends nginx with a signal of the caller's choice, then the application.
    async fn stop(self, nginx_signal: Signal) -> Result<(), LabError> {
        self.nginx.stop(nginx_signal).await?;
        self.app.stop(Signal::SIGTERM).await?;
        Ok(())
    }

    async fn start(setup: &HostSetup, host: &Host, role: VhostRole, version: &str) -> Result<Self, LabError> {
        let (name, role_name) = (host.name.as_str(), role.as_str());
        let (site, dir) = (&setup.site, setup.dir.join(name));
        // A port of loopback inside the host's own namespace.
        let (port, application) = match role {
            VhostRole::Main => (site.ports.main, SocketAddr::from(([127, 0, 0, 1], 9001))),
            VhostRole::Backup => (site.ports.backup, SocketAddr::from(([127, 0, 0, 1], 9002))),
        };
        let listen = application.to_string();
        let app = setup.net.program(name, &setup.switchman).args([
            "lab",
            "app",
            "--listen",
            &listen,
            "--host",
            name,
            "--vhost",
            role_name,
            "--version",
            version,
        ]);
        let app = Process::start(
            &format!("{name} {role_name} application"),
            &app,
            &build_log_path(&dir, role, "app"),
        )?;
        if let Some(pid) = app.pid() {
            write(&dir.join(format!("{role_name}-app.pid")), &pid.to_string())?;
        }
        let file = dir.join(format!("{role_name}.conf"));
        let own = WorkingSet {
            run_dir: dir.display().to_string(),
            log_dir: dir.display().to_string(),
            root: dir.join("site").display().to_string(),
            ..site.clone()
        };
        let who = format!("{name} {role_name}");
        write(&file, &own.render_vhost(role, &file.display().to_string(), &who, Some(application))?)?;
        let nginx = setup.net.program(name, "nginx").arg("-c").arg(&file).args(["-g", "daemon off;"]);
        let nginx = Process::start(
            &format!("{name} {role_name} nginx"),
            &nginx,
            &build_log_path(&dir, role, "nginx"),
        )?;
        let health = Health {
            path: site.health_path.clone(),
            status: 200,
            host: Some(site.health_host.clone()),
            timeout: Duration::from_secs(1),
            interval: Duration::from_millis(10),
            rise: 1,
        };
        let namespace = setup.net.path(name);
        let address = SocketAddr::from(([127, 0, 0, 1], port.get()));
        let healthy = async || is_healthy(namespace.clone(), address, health.clone()).await;
        nginx.wait_until(&format!("health of {name}'s {role_name} vhost"), healthy).await?;
        Ok(Self { nginx, app })
    }
}

fn build_log_path(dir: &Path, role: VhostRole, program: &str) -> PathBuf {
    dir.join(format!("{}-{program}.log", role.as_str()))
}

/// Checks the health from inside the host's namespace, on a thread that enters it.
async fn is_healthy(namespace: PathBuf, address: SocketAddr, health: Health) -> bool {
    run_in_namespace(namespace, move || async move { HttpProbe.check(address, &health).await.is_ok() })
        .await
        .unwrap_or(false)
}

/// Runs a future inside a network namespace: on a thread of its own with a runtime of its own, because a namespace
/// belongs to a thread (setns(2)).
pub async fn run_in_namespace<F, Fut, T>(namespace: PathBuf, body: F) -> Result<T, LabError>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T>,
    T: Send + 'static,
{
    let (done, result) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("swm-inside".to_owned());
    let spawned = thread.spawn(move || {
        let value = enter_namespace(&namespace).and_then(|runtime| Ok(runtime?.block_on(body())));
        let _ = done.send(value);
    });
    spawned.map_err(to_load_error)?;
    match result.await {
        Ok(value) => value.map_err(to_load_error),
        Err(_) => Err(to_load_error("a thread inside a namespace panicked")),
    }
}

type RuntimeResult = std::io::Result<tokio::runtime::Runtime>;

/// Moves this thread into a namespace and makes a runtime there.
pub(super) fn enter_namespace(namespace: &Path) -> std::io::Result<RuntimeResult> {
    let file = std::fs::File::open(namespace)?;
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build())
}
