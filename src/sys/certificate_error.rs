//! Finds out whether a connection failed because one side does not accept the other's certificate: no retry helps there.

use std::error::Error;
use std::io;

use rustls::AlertDescription;
use rustls::Error as TlsError;

/// Looks through the causes of an error, also those inside of I/O errors.
pub fn is_certificate_error(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(found) = cause {
        if let Some(tls) = found.downcast_ref::<TlsError>() {
            return is_about_certificate(tls);
        }
        // The source of an I/O error is that of the error inside of it.
        let inner = found.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner),
            None => found.source(),
        };
    }
    false
}

const fn is_about_certificate(error: &TlsError) -> bool {
    use AlertDescription as Alert;
    matches!(
        error,
        TlsError::InvalidCertificate(_)
            | TlsError::NoCertificatesPresented
            | TlsError::AlertReceived(
                Alert::BadCertificate
                    | Alert::UnsupportedCertificate
                    | Alert::CertificateRevoked
                    | Alert::CertificateExpired
                    | Alert::CertificateUnknown
                    | Alert::UnknownCA
                    | Alert::AccessDenied
                    | Alert::CertificateRequired
            )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_error_is_found_inside_of_an_io_error() {
        let refused = TlsError::AlertReceived(AlertDescription::CertificateRequired);
        assert!(is_certificate_error(&io::Error::other(io::Error::other(refused))));
        assert!(!is_certificate_error(&io::Error::other(TlsError::DecryptError)));
        assert!(!is_certificate_error(&io::Error::from(io::ErrorKind::ConnectionRefused)));
    }
}
