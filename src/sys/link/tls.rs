//! TLS to an agent: its certificate is checked, ours is shown where there is one, a token is read from its file.

use std::path::Path;
use std::sync::Arc;

use nix::sys::socket::{setsockopt, sockopt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::model::client_list::parse_tokens;
use crate::model::host::ConnectConfig;
use crate::sys::access_files::read_private_file;

/// As long as ssh's own patience: 3 times 5 s.
const USER_TIMEOUT_MS: u32 = 15_000;

/// The stream, and the bearer token to send with each request.
pub(super) async fn open(
    address: &str,
    reach: &ConnectConfig,
) -> Result<(TlsStream<TcpStream>, Option<String>), String> {
    let config = build_config(reach)?;
    let token = reach.token_file.as_deref().map(read_token).transpose()?;
    let name = address.rsplit_once(':').map_or(address, |(name, _)| name).trim_matches(['[', ']']);
    let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let _ = stream.set_nodelay(true);
    // A peer that acknowledges nothing any more counts as lost (tcp(7)); without this option only the timeout of an answer
    // detects a cut link.
    let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &USER_TIMEOUT_MS);
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    Ok((stream.map_err(|error| error.to_string())?, token))
}

fn build_config(reach: &ConnectConfig) -> Result<ClientConfig, String> {
    let ca =
        reach.ca.as_deref().ok_or("`agents.ca` names no certificate authority to check the agent against")?;
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(ca)? {
        roots.add(certificate).map_err(|error| format!("`{}`: {error}", ca.display()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.with_root_certificates(roots);
    match (&reach.certificate, &reach.key) {
        (Some(certificate), Some(key)) => {
            let key_der = PrivateKeyDer::from_pem_slice(&read_private_file(key)?);
            let key_der =
                key_der.map_err(|error| format!("cannot read the key `{}`: {error}", key.display()))?;
            let own = builder.with_client_auth_cert(read_certificates(certificate)?, key_der);
            own.map_err(|error| format!("`{}`: {error}", certificate.display()))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found =
        read.map_err(|error| format!("cannot read the certificates `{}`: {error}", file.display()))?;
    if found.is_empty() { Err(format!("`{}` holds no certificate", file.display())) } else { Ok(found) }
}

fn read_token(file: &Path) -> Result<String, String> {
    let text = String::from_utf8(read_private_file(file)?);
    let text = text.map_err(|_| format!("cannot read the token `{}`: it is no text", file.display()))?;
    let failed = |reason: String| format!("cannot use the token `{}`: {reason}", file.display());
    match &parse_tokens(&text).map_err(|error| failed(error.to_string()))?[..] {
        [only] => Ok(only.token.clone()),
        all => Err(failed(format!("it has {} tokens, and one is needed here", all.len()))),
    }
}
