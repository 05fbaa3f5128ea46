//! The operator machine of the lab: a configuration with a transport to every host, run from the client's namespace.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Lab;
use super::command::run_checked;
use super::error::LabError;
use super::files::{make_dir, read_file, write, write_private};
use super::process::Process;
use crate::model::name::HostName;
use crate::sys::exec::{Output, Program};

/// Timeout of one of the operator's commands.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(3);

/// The transport between the operator and the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabTransport {
    /// An sshd in the namespace of every web host and balancer, with real keys.
    Ssh,
    /// The unix socket of an agent in every web host.
    Socket,
    /// Agents that require a client certificate.
    MutualTls,
    /// Agents that require a bearer token over TLS.
    Token,
}

/// The operator, and what runs on the hosts for the sake of the transport.
#[derive(Debug)]
pub struct Operator {
    dir: PathBuf,
    namespace: Program,
    switchman: PathBuf,
    /// The server processes of the machines, those of balancers first; ended with the lab.
    pub servers: Vec<Process>,
}

impl Operator {
    /// `more` is added to switchman.yaml: `roll:`, `hooks:`.
    pub async fn start(lab: &Lab, transport: LabTransport, more: &str) -> Result<Self, LabError> {
        let dir = lab.dir().join("operator");
        make_dir(&dir)?;
        let names: Vec<HostName> = lab.hosts.iter().map(|host| host.host.name.clone()).collect();
        let mut yaml = lab.build_site("lb1")?.render_yaml(&lab.net.admin_addresses())?;
        if more.contains("roll:") {
            // The template has a line of its own.
            yaml = yaml
                .lines()
                .filter(|line| !line.starts_with("roll:"))
                .map(|line| format!("{line}\n"))
                .collect();
        }
        let (servers, transports) = match transport {
            LabTransport::Ssh => {
                let machines = lab.net.balancers().chain(names.iter().map(ToString::to_string));
                set_up_ssh(lab, &dir, &machines.collect::<Vec<_>>()).await?
            }
            LabTransport::Socket => set_up_sockets(lab, &names).await?,
            LabTransport::MutualTls | LabTransport::Token => set_up_tls(lab, &dir, &names, transport).await?,
        };
        for (host, agent) in &transports.hosts {
            yaml = yaml.replace(&format!("  {host}: {{"), &format!("  {host}: {{agent: \"{agent}\", "));
        }
        write(&dir.join("switchman.yaml"), &format!("{yaml}\n{}{more}", transports.yaml))?;
        let switchman = lab.options.switchman.clone();
        Ok(Self { dir, namespace: lab.program("client", "env"), switchman, servers })
    }

    /// Starts an operator who reads the balancers at their admin sockets, where they close their idle connections on request.
    pub async fn start_with_admin_sockets(
        lab: &Lab,
        transport: LabTransport,
        more: &str,
    ) -> Result<Self, LabError> {
        let operator = Self::start(lab, transport, more).await?;
        let file = operator.dir().join("switchman.yaml");
        let mut yaml = read_file(&file)?;
        for (balancer, address) in lab.net.balancers().zip(lab.net.admin_addresses()) {
            let socket = lab.admin_socket_path(&balancer).display().to_string();
            yaml = yaml.replace(
                &format!("haproxy: \"{address}\""),
                &format!("haproxy: \"{socket}\", on_host: false"),
            );
        }
        write(&file, &yaml)?;
        Ok(operator)
    }

    /// Starts an operator who reads the balancers at their admin sockets through ssh.
    pub async fn start_with_ssh_balancers(lab: &Lab, more: &str) -> Result<Self, LabError> {
        let operator = Self::start(lab, LabTransport::Ssh, more).await?;
        let file = operator.dir().join("switchman.yaml");
        let mut yaml = read_file(&file)?;
        for (balancer, address) in lab.net.balancers().zip(lab.net.admin_addresses()) {
            let socket = lab.admin_socket_path(&balancer);
            let ssh = format!("haproxy: \"ssh://{balancer}{}\"", socket.display());
            yaml = yaml.replace(&format!("haproxy: \"{address}\""), &ssh);
        }
        write(&file, &yaml)?;
        Ok(operator)
    }

    /// The command line of one of the operator's commands.
    pub fn program(&self, args: &[&str]) -> Program {
        self.namespace
            .clone()
            .arg(&self.switchman)
            .arg("--config")
            .arg(self.dir.join("switchman.yaml"))
            .arg("--state-dir")
            .arg(self.dir.join("state"))
            .arg("--no-color")
            .args(args)
            .dir(&self.dir)
    }

    pub async fn run_switchman(&self, args: &[&str]) -> Result<Output, LabError> {
        Ok(self.program(args).run(b"", COMMAND_TIMEOUT).await?)
    }

    /// Holds the configuration, the journal and the keys.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The configuration's part about a transport.
#[derive(Default)]
struct TransportConfig {
    /// Host -> `agent:`.
    hosts: Vec<(HostName, String)>,
    yaml: String,
}

async fn set_up_ssh(
    lab: &Lab,
    dir: &Path,
    machines: &[String],
) -> Result<(Vec<Process>, TransportConfig), LabError> {
    // sshd's place for its unprivileged half; Debian's unit makes it.
    make_dir(Path::new("/run/sshd"))?;
    let key = dir.join("id_ed25519");
    generate_key(lab, &key).await?;
    let mut known = String::new();
    let mut config = format!(
        "Host *\n  User root\n  IdentityFile {key}\n  IdentitiesOnly yes\n  UserKnownHostsFile {dir}/known_hosts\n  StrictHostKeyChecking yes\n  \
         ControlMaster auto\n  ControlPath {dir}/%C\n  ControlPersist 60\n  LogLevel ERROR\n",
        key = key.display(),
        dir = dir.display()
    );
    let mut servers = Vec::new();
    for host in machines {
        let address = lab.net.address(host);
        let home = lab.dir().join(host);
        let host_key = home.join("ssh_host_key");
        generate_key(lab, &host_key).await?;
        let public = read_file(&host_key.with_extension("pub"))?;
        let _ = write!(known, "{address} {public}");
        let _ = write!(config, "Host {host}\n  HostName {address}\n");
        let file = home.join("sshd_config");
        let text = format!(
            "ListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}.pub\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\nMaxStartups 100\n",
            host_key.display(),
            key.display()
        );
        write(&file, &text)?;
        servers.push(start_sshd(lab, host).await?);
    }
    write(&dir.join("known_hosts"), &known)?;
    write(&dir.join("ssh_config"), &config)?;
    let yaml = format!(
        "ssh:\n  options: [-F, {}/ssh_config, -o, ServerAliveInterval=1, -o, ServerAliveCountMax=2, -o, ConnectTimeout=2]\n  switchman: env XTABLES_LOCKFILE={root}/{{host}}/xtables.lock {} --state-dir {root}/{{host}}/state --releases-dir {root}/{{host}}/releases\n",
        dir.display(),
        lab.options.switchman.display(),
        root = lab.dir().display(),
    );
    Ok((servers, TransportConfig { yaml, ..TransportConfig::default() }))
}

/// Starts the sshd of one host; by its whole path, because it executes itself again for each client (sshd(8)).
pub async fn start_sshd(lab: &Lab, host: &str) -> Result<Process, LabError> {
    let file = lab.dir().join(host).join("sshd_config");
    let program = lab.program(host, "/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(&file);
    let sshd = Process::start(&format!("{host} sshd"), &program, &lab.dir().join(host).join("sshd.log"))?;
    let address = SocketAddr::new(lab.net.address(host), 22);
    let namespace = lab.namespace_path("client");
    let listens = async || {
        let connect = move || async move { tokio::net::TcpStream::connect(address).await.is_ok() };
        crate::lab::hosts::run_in_namespace(namespace.clone(), connect).await.unwrap_or(false)
    };
    sshd.wait_until(&format!("sshd of {host}"), listens).await?;
    Ok(sshd)
}

async fn generate_key(lab: &Lab, file: &Path) -> Result<(), LabError> {
    let program = lab.program("client", "ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file);
    run_checked(&program, b"", COMMAND_TIMEOUT).await
}

/// An agent on a host, with more flags.
pub async fn start_agent(lab: &Lab, host: &str, more: &[String]) -> Result<Process, LabError> {
    let home = lab.dir().join(host);
    let socket = home.join("agent.sock");
    let program =
        lab.switchman_program(host, &["agent", "--socket", &socket.display().to_string()]).args(more);
    let agent = Process::start(&format!("{host} agent"), &program, &home.join("agent.log"))?;
    let ready = socket.clone();
    agent
        .wait_until(&format!("agent of {host}"), async || {
            tokio::net::UnixStream::connect(&ready).await.is_ok()
        })
        .await?;
    Ok(agent)
}

async fn set_up_sockets(lab: &Lab, names: &[HostName]) -> Result<(Vec<Process>, TransportConfig), LabError> {
    let (mut servers, mut transports) = (Vec::new(), TransportConfig::default());
    for name in names {
        servers.push(start_agent(lab, name.as_str(), &[]).await?);
        let socket = lab.dir().join(name.as_str()).join("agent.sock");
        transports.hosts.push((name.clone(), format!("unix://{}", socket.display())));
    }
    Ok((servers, transports))
}

async fn set_up_tls(
    lab: &Lab,
    dir: &Path,
    names: &[HostName],
    transport: LabTransport,
) -> Result<(Vec<Process>, TransportConfig), LabError> {
    let file = |name: &str| dir.join(name).display().to_string();
    create_authority(lab, dir).await?;
    create_certificate(lab, dir, "operator", "DNS:operator").await?;
    let token = "a token of the lab, long enough";
    write_private(&dir.join("token"), token)?;
    let (mut servers, mut transports) = (Vec::new(), TransportConfig::default());
    for name in names {
        let address = lab.net.address(name.as_str());
        create_certificate(lab, dir, name.as_str(), &format!("IP:{address}")).await?;
        let listen = format!("{address}:9443");
        let (pem, key) = (file(&format!("{name}.pem")), file(&format!("{name}.key")));
        let mut more =
            vec!["--listen".to_owned(), listen.clone(), "--certificate".into(), pem, "--key".into(), key];
        match transport {
            LabTransport::Token => more.extend(["--token-file".to_owned(), file("token")]),
            _ => more.extend(["--client-ca".to_owned(), file("ca.pem")]),
        }
        servers.push(start_agent(lab, name.as_str(), &more).await?);
        transports.hosts.push((name.clone(), format!("https://{listen}")));
    }
    transports.yaml = match transport {
        LabTransport::Token => format!("agents: {{ca: {}, token_file: {}}}\n", file("ca.pem"), file("token")),
        _ => format!(
            "agents: {{ca: {}, certificate: {}, key: {}}}\n",
            file("ca.pem"),
            file("operator.pem"),
            file("operator.key")
        ),
    };
    Ok((servers, transports))
}

async fn create_authority(lab: &Lab, dir: &Path) -> Result<(), LabError> {
    let openssl = lab.program("client", "openssl").dir(dir);
    let subject = ["-subj", "/CN=swm lab authority", "-days", "2", "-nodes"];
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
    let files = ["-keyout", "ca.key", "-out", "ca.pem"];
    let program = openssl.args(["req", "-x509"]).args(key).args(subject).args(files);
    run_checked(&program, b"", COMMAND_TIMEOUT).await
}

async fn create_certificate(lab: &Lab, dir: &Path, name: &str, subject: &str) -> Result<(), LabError> {
    let openssl = || lab.program("client", "openssl").dir(dir);
    let (key, request, pem) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let named = ["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName={subject}")];
    let program = openssl().arg("req").args(curve).args(named).args(["-keyout", &key, "-out", &request]);
    run_checked(&program, b"", COMMAND_TIMEOUT).await?;
    let sign = ["x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
    let program = openssl().args(sign).args(["-days", "2", "-copy_extensions", "copy", "-out", &pem]);
    run_checked(&program, b"", COMMAND_TIMEOUT).await
}
