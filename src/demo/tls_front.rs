//! TLS in front of a local server, under a certificate authority of its own: what a worker meets
//! behind a proxy that breaks TLS open, and on AWS itself.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::NamedTempFile;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// The name that the certificates are for.
const NAME: &str = "localhost";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No certificate could be made.
    #[error("no certificate was made")]
    Certificate(#[from] rcgen::Error),
    /// rustls refuses it.
    #[error("the certificate cannot be used")]
    Tls(#[from] rustls::Error),
    /// No port, or no file.
    #[error("TLS was not set up")]
    Io(#[from] io::Error),
}

/// A certificate authority that nobody trusts who is not told to.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    bundle: NamedTempFile,
}

impl Authority {
    /// Makes one, and a file of its certificate that goes with it.
    ///
    /// # Errors
    /// No key, or no file.
    pub fn new() -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let mut bundle = NamedTempFile::new()?;
        io::Write::write_all(&mut bundle, issuer.pem().as_bytes())?;
        Ok(Self { issuer, bundle })
    }

    /// For `SSL_CERT_FILE`.
    #[must_use]
    pub fn bundle(&self) -> &Path {
        self.bundle.path()
    }

    fn server(&self) -> Result<ServerConfig, Error> {
        let key = KeyPair::generate()?;
        let certificate =
            CertificateParams::new([NAME.to_owned()])?.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth();
        Ok(config.with_single_cert(vec![certificate.into()], key)?)
    }
}

/// A front: what it hears in TLS it says to the server behind it in plain, and the other way. Its
/// connections end with it.
pub struct TlsFront {
    address: SocketAddr,
    _connections: JoinSet<()>,
}

impl TlsFront {
    /// Listens on a free loopback port, in front of `behind`.
    ///
    /// # Errors
    /// No port, or no certificate.
    pub async fn start(authority: &Authority, behind: SocketAddr) -> Result<Self, Error> {
        let acceptor = TlsAcceptor::from(Arc::new(authority.server()?));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, acceptor, behind));
        Ok(Self { address, _connections: connections })
    }

    /// Its address, by the name that its certificate is for: `localhost:PORT`.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{NAME}:{}", self.address.port())
    }
}

/// TLS in front of a whole local world.
pub struct Fronts {
    authority: Authority,
    aws: TlsFront,
    feed: TlsFront,
}

impl Fronts {
    /// In front of these two servers.
    ///
    /// # Errors
    /// No port, or no certificate.
    pub async fn start(aws: SocketAddr, feed: SocketAddr) -> Result<Self, Error> {
        let authority = Authority::new()?;
        Ok(Self {
            aws: TlsFront::start(&authority, aws).await?,
            feed: TlsFront::start(&authority, feed).await?,
            authority,
        })
    }

    /// What a task is to be told: where both servers are, and whom to trust.
    #[must_use]
    pub fn variables(&self, feed_path: &str) -> [(&'static str, String); 3] {
        [
            ("AWS_ENDPOINT_URL", format!("https://{}", self.aws.authority())),
            ("FEED_URL", format!("https://{}{feed_path}", self.feed.authority())),
            ("SSL_CERT_FILE", self.authority.bundle().display().to_string()),
        ]
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, behind: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors, most likely: others will be closed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            // Whatever goes wrong, either side sees its connection end.
            let _ = carry(socket, acceptor, behind).await;
        });
    }
}

async fn carry(socket: TcpStream, acceptor: TlsAcceptor, behind: SocketAddr) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut front = acceptor.accept(socket).await?;
    let mut back = TcpStream::connect(behind).await?;
    back.set_nodelay(true)?;
    copy_bidirectional(&mut front, &mut back).await.map(|_| ())
}
