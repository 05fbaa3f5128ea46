//! The name and the fingerprint of a client certificate that TLS has verified.

use std::fmt::Write as _;
use std::net::IpAddr;

use ring::digest::{SHA256, digest};
use x509_cert::Certificate;
use x509_cert::der::asn1::{
    Ia5StringRef, ObjectIdentifier, PrintableStringRef, TeletexStringRef, Utf8StringRef,
};
use x509_cert::der::{Any, Decode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::model::caller::CallerIdentity;
use crate::model::terminal_text::clean_line;

/// RFC 5280, appendix A.1: `id-at-commonName`.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
/// Bytes of the fingerprint that a record shows.
const FINGERPRINT_BYTES: usize = 8;
/// A longer name is cut, in characters. A certificate has at most 64 (RFC 5280, `ub-common-name`).
const MAX_NAME_LENGTH: usize = 64;

/// Returns the identity of a certificate in DER: the first common name of its subject, or its first alternative name.
pub(super) fn identify_certificate(der: &[u8]) -> CallerIdentity {
    let fingerprint =
        digest(&SHA256, der).as_ref()[..FINGERPRINT_BYTES].iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
    let certificate = Certificate::from_der(der).ok();
    let name = certificate
        .as_ref()
        .and_then(|found| find_common_name(found).or_else(|| find_alternative_name(found)));
    let name: String = clean_line(&name.unwrap_or_default()).chars().take(MAX_NAME_LENGTH).collect();
    CallerIdentity::Certificate { name, fingerprint }
}

fn find_common_name(certificate: &Certificate) -> Option<String> {
    let names = certificate.tbs_certificate.subject.0.iter().flat_map(|part| part.0.iter());
    let name = names.into_iter().find(|name| name.oid == COMMON_NAME)?;
    decode_text(&name.value).filter(|name| !name.is_empty())
}

fn decode_text(value: &Any) -> Option<String> {
    let utf8 = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
    let printable = || value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned());
    let ia5 = || value.decode_as::<Ia5StringRef<'_>>().map(|text| text.as_str().to_owned());
    let teletex = || value.decode_as::<TeletexStringRef<'_>>().map(|text| text.as_str().to_owned());
    utf8.or_else(|_| printable()).or_else(|_| ia5()).or_else(|_| teletex()).ok()
}

fn find_alternative_name(certificate: &Certificate) -> Option<String> {
    let (_, names) = certificate.tbs_certificate.get::<SubjectAltName>().ok()??;
    names.0.iter().find_map(|name| match name {
        GeneralName::DnsName(text)
        | GeneralName::Rfc822Name(text)
        | GeneralName::UniformResourceIdentifier(text) => Some(text.as_str().to_owned()),
        GeneralName::IpAddress(bytes) => read_address(bytes.as_bytes()).map(|address| address.to_string()),
        _ => None,
    })
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
