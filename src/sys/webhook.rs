//! `world::notifier` by POST: a bounded queue, a worker, a few tries each. A roll never waits for a webhook but at its end,
//! and then not for long.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::model::duration;
use crate::model::fleet::Webhook;
use crate::model::plural::Count;
use crate::world::notifier::{Notice, Notifier};

/// Notices that wait; the oldest makes room for the newest.
const MAX_QUEUED: usize = 64;
/// Pauses before the second, third and fourth try.
const RETRY_INTERVALS: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];
/// How long the end of a roll waits for what is still under way.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Every configured webhook.
pub struct Webhooks {
    hooks: Vec<Webhook>,
    state: Arc<QueueState>,
    /// Started with the first notice.
    worker: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

#[derive(Default)]
struct QueueState {
    queue: Mutex<VecDeque<Notice>>,
    /// Undelivered notices, one sentence each.
    undelivered: Mutex<Vec<String>>,
    notice_added: Notify,
    /// Set while a notice is being delivered.
    is_delivering: Mutex<bool>,
    became_idle: Notify,
}

impl Webhooks {
    pub fn new(hooks: &[Webhook]) -> Self {
        Self { hooks: hooks.to_vec(), state: Arc::default(), worker: Mutex::default() }
    }
}

#[async_trait]
impl Notifier for Webhooks {
    fn send(&self, notice: Notice) {
        if self.hooks.is_empty() {
            return;
        }
        let mut queue = lock(&self.state.queue);
        if queue.len() >= MAX_QUEUED
            && let Some(dropped) = queue.pop_front()
        {
            lock(&self.state.undelivered).push(format!("too many notices wait: dropped `{}`", dropped.text));
        }
        queue.push_back(notice);
        drop(queue);
        self.state.notice_added.notify_one();
        let mut worker = lock(&self.worker);
        if worker.is_none() {
            *worker = Some(tokio::spawn(deliver_all(self.hooks.clone(), self.state.clone())));
        }
    }

    async fn flush(&self) -> Vec<String> {
        let idle = async {
            loop {
                let waited = self.state.became_idle.notified();
                if lock(&self.state.queue).is_empty() && !*lock(&self.state.is_delivering) {
                    return;
                }
                waited.await;
            }
        };
        if tokio::time::timeout(FLUSH_TIMEOUT, idle).await.is_err() {
            let left = lock(&self.state.queue).len() + 1;
            let waited = duration::format(FLUSH_TIMEOUT);
            lock(&self.state.undelivered)
                .push(format!("{} not delivered within {waited}", Count(left, "notice")));
        }
        std::mem::take(&mut *lock(&self.state.undelivered))
    }
}

impl Drop for Webhooks {
    fn drop(&mut self) {
        if let Some(worker) = lock(&self.worker).take() {
            worker.abort();
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn deliver_all(hooks: Vec<Webhook>, state: Arc<QueueState>) {
    // Only the first installs: reqwest panics without a provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().user_agent("switchman").build();
    loop {
        let next = {
            let mut queue = lock(&state.queue);
            let next = queue.pop_front();
            *lock(&state.is_delivering) = next.is_some();
            next
        };
        let Some(notice) = next else {
            state.became_idle.notify_waiters();
            state.notice_added.notified().await;
            continue;
        };
        for hook in &hooks {
            let delivered = match &client {
                Ok(client) => deliver(client, hook, &notice).await,
                Err(error) => Err(DeliverError::NotSent(error.to_string())),
            };
            if let Err(error) = delivered {
                let place = redact_url(&hook.url);
                lock(&state.undelivered)
                    .push(format!("cannot notify webhook {place} of `{}`: {error}", notice.text));
            }
        }
    }
}

/// Why a webhook did not take a notice.
#[derive(Debug, thiserror::Error)]
enum DeliverError {
    #[error("it answered {0}")]
    Refused(reqwest::StatusCode),
    #[error("{0}")]
    NotSent(String),
}

impl DeliverError {
    /// Whether another attempt may succeed: a refusal by the other side (4xx) is final, apart from 429.
    fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(status) => !status.is_client_error() || status.as_u16() == 429,
            Self::NotSent(_) => true,
        }
    }
}

async fn deliver(client: &reqwest::Client, hook: &Webhook, notice: &Notice) -> Result<(), DeliverError> {
    let body = serde_json::to_vec(notice).map_err(|error| DeliverError::NotSent(error.to_string()))?;
    let mut pauses = RETRY_INTERVALS.iter();
    loop {
        let request = client.post(&hook.url).header("content-type", "application/json").body(body.clone());
        let error = match request.timeout(hook.timeout).send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => DeliverError::Refused(answer.status()),
            Err(error) => DeliverError::NotSent(error.without_url().to_string()),
        };
        match pauses.next() {
            Some(pause) if error.is_retryable() => tokio::time::sleep(*pause).await,
            _ => return Err(error),
        }
    }
}

/// The path and the query of a webhook are often its secret, and so is the part before an `@`.
fn redact_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::model::roll::RollId;
    use crate::world::notifier::NoticeEvent;

    fn build_notice(text: &str) -> Notice {
        Notice {
            event: NoticeEvent::Started,
            roll: RollId::new(jiff::Timestamp::UNIX_EPOCH, 1),
            service: "shop".parse().unwrap(),
            host: None,
            text: text.to_owned(),
            at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    /// Answers each request with the next status; gives back the bodies.
    async fn start_server(statuses: &'static [u16]) -> (Webhooks, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/secret", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            let mut bodies = Vec::new();
            for status in statuses {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let mut length = 0;
                while !String::from_utf8_lossy(&request[..length]).contains('}') {
                    length += stream.read(&mut request[length..]).await.unwrap();
                }
                bodies.push(String::from_utf8_lossy(&request[..length]).into_owned());
                let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            bodies
        });
        (Webhooks::new(&[Webhook { url, timeout: Duration::from_secs(5) }]), served)
    }

    #[tokio::test]
    async fn webhook_retries_transient_failures() {
        let (webhooks, served) = start_server(&[503, 200]).await;
        webhooks.send(build_notice("a roll began"));
        assert_eq!(webhooks.flush().await, Vec::<String>::new());
        let bodies = served.await.unwrap();
        assert!(
            bodies[1].contains(r#""event":"started""#) && bodies[1].contains("a roll began"),
            "{bodies:?}"
        );
        assert!(bodies[1].starts_with("POST /secret HTTP/1.1\r\n"), "{bodies:?}");
    }

    #[tokio::test]
    async fn webhook_reports_refusal_without_secret() {
        let (webhooks, served) = start_server(&[403]).await;
        webhooks.send(build_notice("x"));
        let lost = webhooks.flush().await;
        assert!(lost[0].ends_with("of `x`: it answered 403 Forbidden"), "{lost:?}");
        assert!(!lost[0].contains("secret"));
        served.await.unwrap();
    }

    #[test]
    fn redact_url_removes_secrets() {
        for url in [
            "https://chat.example/s3cret",
            "https://me:s3cret@chat.example?s3cret",
            "https://chat.example#s3cret",
        ] {
            assert_eq!(redact_url(url), "https://chat.example");
        }
        assert_eq!(redact_url("http://[::1]:80/x"), "http://[::1]:80");
    }

    #[tokio::test(start_paused = true)]
    async fn full_queue_drops_oldest_and_flush_is_bounded() {
        let dead = Webhook { url: "http://127.0.0.1:1/".into(), timeout: Duration::from_secs(5) };
        let webhooks = Webhooks::new(&[dead]);
        for number in 0..=MAX_QUEUED {
            webhooks.send(build_notice(&number.to_string()));
        }
        let lost = webhooks.flush().await;
        assert_eq!(lost[0], "too many notices wait: dropped `0`");
        assert!(lost.last().unwrap().contains("notices not delivered within 10s"), "{lost:?}");
    }
}
