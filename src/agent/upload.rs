//! An archive on its way in: to a file without a name on the disk of the releases, then placed.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;

use super::api::respond::{ApiResult, bad_request, require_valid, respond, respond_error, to_status_code};
use super::api::state::ApiState;
use crate::model::api::endpoint::NoQuery;
use crate::model::duration;
use crate::model::failure::ErrorCode;
use crate::model::name::ServiceName;
use crate::model::release::check_release_name;
use crate::ops::host::error_code::release_code;

/// Limit of a compressed archive.
const MAX_ARCHIVE_BYTES: u64 = 1 << 30;
/// A sender that is silent for longer is taken as disconnected.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// As nginx's lingering_timeout: a refused sender that is silent for this long has read the answer, or never will.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn upload_release(
    state: ApiState,
    named: Result<Path<(ServiceName, String)>, PathRejection>,
    query: Result<Query<NoQuery>, QueryRejection>,
    headers: HeaderMap,
    mut body: Body,
) -> ApiResult {
    let received = async {
        require_valid(query)?;
        receive_and_place(state, named, &headers, &mut body).await
    };
    match received.await {
        Ok(answer) => Ok(answer),
        Err(refusal) => {
            // A sender whose connection is closed under it gets a broken pipe and not the reason: what it is still sending
            // is read until it has received the answer.
            tokio::spawn(async move { discard(body, MAX_ARCHIVE_BYTES, LINGER_TIMEOUT).await });
            Err(refusal)
        }
    }
}

async fn receive_and_place(
    ApiState { host, releases, .. }: ApiState,
    named: Result<Path<(ServiceName, String)>, PathRejection>,
    headers: &HeaderMap,
    body: &mut Body,
) -> ApiResult {
    let Path((service, release)) = require_valid(named)?;
    require_valid(check_release_name(&release))?;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if length.and_then(|length| length.parse::<u64>().ok()).is_some_and(|length| length > MAX_ARCHIVE_BYTES) {
        return Err(reject_too_large(MAX_ARCHIVE_BYTES));
    }
    let file = releases.create_upload_file().map_err(|error| {
        let code = release_code(&error);
        respond_error(to_status_code(code), code, &error.to_string())
    })?;
    let file = receive(body, file, MAX_ARCHIVE_BYTES, READ_TIMEOUT).await?;
    // Not stopped by a caller that disconnects: the file stays open for as long as a process reads it by its number.
    let placing = tokio::spawn(async move {
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let placed = host.upload_release(&service, &release, &path).await;
        drop(file);
        placed
    });
    let placed = placing.await.map_err(|ended| reject_receive_error(&ended))?;
    Ok(respond(placed))
}

/// Everything that comes, up to `most` bytes.
async fn receive(body: &mut Body, file: File, most: u64, silence: Duration) -> Result<File, Response> {
    let mut file = tokio::fs::File::from_std(file);
    let mut received = 0;
    loop {
        let frame = match tokio::time::timeout(silence, body.frame()).await {
            Ok(Some(frame)) => {
                frame.map_err(|error| bad_request(&format!("the archive broke off: {error}")))?
            }
            Ok(None) => break,
            Err(_) => {
                let text = format!("nothing more of the archive came within {}", duration::format(silence));
                return Err(respond_error(StatusCode::REQUEST_TIMEOUT, ErrorCode::BadRequest, &text));
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        received += data.len() as u64;
        if received > most {
            return Err(reject_too_large(most));
        }
        file.write_all(&data).await.map_err(|error| reject_write_error(&error))?;
    }
    file.flush().await.map_err(|error| reject_write_error(&error))?;
    Ok(file.into_std().await)
}

async fn discard(mut body: Body, most: u64, silence: Duration) {
    let mut left = most;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(silence, body.frame()).await {
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match left.checked_sub(length) {
            Some(less) => left = less,
            None => return,
        }
    }
}

fn reject_too_large(most: u64) -> Response {
    let text = format!("the archive has more than {most} bytes");
    respond_error(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::BadRequest, &text)
}

fn reject_write_error(error: &io::Error) -> Response {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let text = "the disk that holds the releases is full";
            respond_error(to_status_code(ErrorCode::DiskFull), ErrorCode::DiskFull, text)
        }
        _ => reject_receive_error(error),
    }
}

fn reject_receive_error(why: &dyn Display) -> Response {
    let code = ErrorCode::ReleasesFailed;
    respond_error(to_status_code(code), code, &format!("the archive was not kept: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn receive_all(mut body: Body, most: u64) -> Result<u64, StatusCode> {
        let file = tempfile::tempfile().unwrap();
        let received = receive(&mut body, file, most, Duration::from_secs(30)).await;
        received.map(|file| file.metadata().unwrap().len()).map_err(|answer| answer.status())
    }

    #[tokio::test(start_paused = true)]
    async fn upload_ends_at_eof_size_limit_or_timeout() {
        assert_eq!(receive_all(Body::from(vec![0; 1000]), 1000).await, Ok(1000));
        assert_eq!(receive_all(Body::from(vec![0; 1001]), 1000).await, Err(StatusCode::PAYLOAD_TOO_LARGE));
        let endless = futures_util::stream::repeat_with(|| Ok::<_, io::Error>(vec![0; 4096]));
        assert_eq!(
            receive_all(Body::from_stream(endless), 1 << 20).await,
            Err(StatusCode::PAYLOAD_TOO_LARGE)
        );
        let silent = futures_util::stream::pending::<io::Result<Vec<u8>>>();
        assert_eq!(receive_all(Body::from_stream(silent), 1000).await, Err(StatusCode::REQUEST_TIMEOUT));
        let broken = futures_util::stream::iter([Ok(vec![0; 10]), Err(io::Error::other("cut"))]);
        assert_eq!(receive_all(Body::from_stream(broken), 1000).await, Err(StatusCode::BAD_REQUEST));
    }
}
