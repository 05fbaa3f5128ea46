//! The web hosts of the lab: two nginx from `vhosts/`, an application after each, and the host's switchman.yaml.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::process::Process;
use super::{Lab, LabError, make_dir, write};
use crate::model::health::Health;
use crate::model::host::Host;
use crate::model::name::HostName;
use crate::sys::probe::HttpProbe;
use crate::templates::working_set::{VhostRole, WorkingSet};
use crate::world::probe::Probe;

/// A web host with its two vhosts.
#[derive(Debug)]
pub struct WebHost {
    pub host: Host,
    main: Option<Vhost>,
    backup: Option<Vhost>,
}

/// nginx and the application behind it.
#[derive(Debug)]
struct Vhost {
    nginx: Process,
    app: Process,
}

impl WebHost {
    pub(super) async fn start(lab: &Lab, site: &WorkingSet, host: Host) -> Result<Self, LabError> {
        let dir = lab.dir().join(host.name.as_str());
        make_dir(&dir)?;
        write(&dir.join("switchman.yaml"), &site.render_yaml(&lab.admin_addresses())?)?;
        write(
            &dir.join("replace-main.sh"),
            &render_replace_script(&dir, &lab.options.switchman, &host.name),
        )?;
        let main = Vhost::start(lab, site, &host, VhostRole::Main, "1.0.0").await?;
        let backup = Vhost::start(lab, site, &host, VhostRole::Backup, "1.0.0").await?;
        Ok(Self { host, main: Some(main), backup: Some(backup) })
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
        service = crate::lab::SERVICE,
    )
}

impl Lab {
    /// Stops a host's main vhost, letting requests end, and starts another version of it.
    pub async fn replace_main(&mut self, at: usize, version: &str) -> Result<(), LabError> {
        self.stop_main(at).await?;
        let (site, host) = (self.build_site("lb1")?, self.hosts[at].host.clone());
        let vhost = Vhost::start(self, &site, &host, VhostRole::Main, version).await?;
        self.hosts[at].main = Some(vhost);
        Ok(())
    }

    /// Stops nginx first, gracefully; then the application, which gets no requests any more.
    pub async fn stop_main(&mut self, at: usize) -> Result<(), LabError> {
        if let Some(vhost) = self.hosts[at].main.take() {
            vhost.nginx.stop(Signal::SIGQUIT).await?;
            vhost.app.stop(Signal::SIGTERM).await?;
        }
        Ok(())
    }
}

impl Lab {
    /// Kills the backup vhost with all its requests in flight.
    pub async fn kill_backup(&mut self, at: usize) -> Result<(), LabError> {
        if let Some(vhost) = self.hosts[at].backup.take() {
            vhost.nginx.stop(Signal::SIGTERM).await?;
            vhost.app.stop(Signal::SIGTERM).await?;
        }
        Ok(())
    }

    /// Starts the backup vhost again.
    pub async fn start_backup(&mut self, at: usize) -> Result<(), LabError> {
        let (site, host) = (self.build_site("lb1")?, self.hosts[at].host.clone());
        self.hosts[at].backup = Some(Vhost::start(self, &site, &host, VhostRole::Backup, "1.0.0").await?);
        Ok(())
    }
}

impl Vhost {
    async fn start(
        lab: &Lab,
        site: &WorkingSet,
        host: &Host,
        role: VhostRole,
        version: &str,
    ) -> Result<Self, LabError> {
        let (name, role_name) = (host.name.as_str(), role.as_str());
        let dir = lab.dir().join(name);
        // A port of loopback inside the host's own namespace.
        let (port, application) = match role {
            VhostRole::Main => (site.ports.main, SocketAddr::from(([127, 0, 0, 1], 9001))),
            VhostRole::Backup => (site.ports.backup, SocketAddr::from(([127, 0, 0, 1], 9002))),
        };
        let listen = application.to_string();
        let app = lab.program(name, &lab.options.switchman).args([
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
        let nginx = lab.program(name, "nginx").arg("-c").arg(&file).args(["-g", "daemon off;"]);
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
        let namespace = lab.namespace(name);
        let address = SocketAddr::from(([127, 0, 0, 1], port.get()));
        let healthy = async || is_healthy(namespace.clone(), address, health.clone()).await;
        nginx.until(&format!("health of {name}'s {role_name} vhost"), healthy).await?;
        Ok(Self { nginx, app })
    }
}

fn build_log_path(dir: &Path, role: VhostRole, what: &str) -> PathBuf {
    dir.join(format!("{}-{what}.log", role.as_str()))
}

/// Checks the health from inside the host's namespace, on a thread that enters it.
async fn is_healthy(namespace: PathBuf, address: SocketAddr, health: Health) -> bool {
    inside(namespace, move || async move { HttpProbe.ask(address, &health).await.is_ok() })
        .await
        .unwrap_or(false)
}

/// Runs a future inside a network namespace: on a thread of its own with a runtime of its own, because a namespace
/// belongs to a thread (setns(2)).
pub async fn inside<F, Fut, T>(namespace: PathBuf, body: F) -> Result<T, LabError>
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
    spawned.map_err(|error| LabError::Load { why: error.to_string() })?;
    match result.await {
        Ok(value) => value.map_err(|error| LabError::Load { why: error.to_string() }),
        Err(_) => Err(LabError::Load { why: "a thread inside a namespace panicked".to_owned() }),
    }
}

type RuntimeResult = std::io::Result<tokio::runtime::Runtime>;

/// Moves this thread into a namespace and makes a runtime there.
pub(super) fn enter_namespace(namespace: &Path) -> std::io::Result<RuntimeResult> {
    let file = std::fs::File::open(namespace)?;
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build())
}
