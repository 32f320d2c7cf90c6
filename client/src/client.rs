//! One client of one cluster: the metadata session, and the files on top of it.

use std::sync::Arc;

use crate::{ClientConfig, Error, Files, MetaClient};

/// A connected client. Cheap to clone; the session ends when the last clone is dropped.
#[derive(Clone)]
pub struct Client {
    parts: Arc<Parts>,
}

struct Parts {
    meta: MetaClient,
    files: Files,
}

impl Client {
    /// Finds the leader and opens a session. Waits for as long as it takes, or for `config.soft`.
    ///
    /// # Errors
    /// [`Error::Refused`] for a foreign cluster, an unknown wire version or a limit; [`Error::Unavailable`] after the soft timeout.
    pub async fn connect(config: ClientConfig) -> Result<Self, Error> {
        let meta = MetaClient::connect(&config).await?;
        let files = Files::new(meta.clone(), &config);
        Ok(Self { parts: Arc::new(Parts { meta, files }) })
    }

    /// Names, attributes and claims.
    pub fn meta(&self) -> &MetaClient {
        &self.parts.meta
    }

    /// Data.
    pub fn files(&self) -> &Files {
        &self.parts.files
    }

    /// Syncs everything, ends the grants and ends the session's task. An error is logged: there is nobody left to tell.
    pub async fn shutdown(&self) {
        if let Err(error) = self.parts.files.sync_all().await {
            tracing::error!(%error, "not all buffered bytes could be synced before the end");
        }
        self.parts.files.shutdown().await;
        self.parts.meta.close();
    }
}
