//! An archive as the body of a request: read as fast as the host takes it, and never more of it in memory than one block.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::Instant;

use super::HttpLink;
use super::answer::{Content, read_body};
use super::connection::{Body, RequestFailure, describe_error};
use crate::model::api::endpoint::NoQuery;
use crate::model::api::endpoints::UPLOAD;
use crate::model::deployment::Digest;
use crate::model::failure::ErrorCode;
use crate::model::name::ServiceName;
use crate::world::link::{HostLink, LinkError, LinkResult};

const BLOCK_BYTES: usize = 64 * 1024;
/// The host takes nothing, or does not answer to anything, for so long: the link is broken.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout for unpacking the received archive; it applies while the host still answers to something else.
const UNPACK_TIMEOUT: Duration = Duration::from_mins(15);

impl HttpLink {
    /// Uses a connection of its own, so that other requests are sent in parallel.
    pub(super) async fn upload(
        &self,
        service: &ServiceName,
        release: &str,
        archive: &Path,
    ) -> LinkResult<Digest> {
        let unread = |error: io::Error| LinkError::Refused {
            code: ErrorCode::BadArchive,
            message: format!("cannot read `{}`: {error}", archive.display()),
        };
        let file = File::open(archive).await.map_err(unread)?;
        let length = file.metadata().await.map_err(unread)?.len();
        let mut connection = self.open_connection().await?;
        let (moved, moving) = watch::channel(());
        let target = UPLOAD.build_target(&(service.clone(), release.to_owned()), &NoQuery {});
        let request = connection
            .build_request(UPLOAD.row.method, &target)
            .header("content-type", "application/gzip")
            .header("content-length", length)
            .body(build_body(file, moved))
            .map_err(|error| self.broken_error(describe_error(&error)))?;
        let sent = self.wait_for_answer(connection.sender.send_request(request), moving).await?;
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => {
                let failure = RequestFailure::Broken(describe_error(&error));
                return Err(self.broken_error(connection.explain_failure(failure).await));
            }
        };
        if !answer.status().is_success() {
            // Refused before all of it was sent: what is left to send ends with the connection.
            let status = answer.status();
            let refusal = self.run_with_timeout(SILENCE_TIMEOUT, read_body(answer.into_body())).await?;
            let refusal = refusal.map_err(|reason| self.broken_error(reason))?;
            return Err(self.refused_error(status, &refusal));
        }
        self.read_json(Content::Display, connection, answer).await
    }

    /// Waits for as long as something moves, then for as long as the host is there.
    async fn wait_for_answer<T>(
        &self,
        answering: impl Future<Output = T>,
        mut moving: watch::Receiver<()>,
    ) -> LinkResult<T> {
        tokio::pin!(answering);
        let mut sending = true;
        let mut last = Instant::now();
        loop {
            tokio::select! {
                answer = &mut answering => return Ok(answer),
                moved = moving.changed(), if sending => {
                    sending = moved.is_ok();
                    last = Instant::now();
                }
                () = tokio::time::sleep(SILENCE_TIMEOUT) => {
                    if sending || last.elapsed() > UNPACK_TIMEOUT {
                        return Err(LinkError::TimedOut { via: self.transport_label(), waited: last.elapsed() });
                    }
                    self.greet().await?;
                }
            }
        }
    }
}

/// Builds a body of the whole file. `moved` is notified of every block that is taken, and is dropped after the last.
fn build_body(file: File, moved: watch::Sender<()>) -> Body {
    let blocks = stream::try_unfold((file, moved), |(mut file, moved)| async move {
        let mut block = vec![0; BLOCK_BYTES];
        let read = file.read(&mut block).await?;
        block.truncate(read);
        moved.send_replace(());
        let frame = (read > 0).then(|| Frame::data(Bytes::from(block)));
        Ok::<_, io::Error>(frame.map(|frame| (frame, (file, moved))))
    });
    StreamBody::new(blocks).boxed_unsync()
}
