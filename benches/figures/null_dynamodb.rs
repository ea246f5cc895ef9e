//! A DynamoDB that keeps nothing, in a process of its own: it answers every `PutItem` at once, and says
//! when it gets the first and the last of those that it was told to expect. What writes to it is
//! measured, and not the table.

use std::cell::RefCell;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::rc::Rc;
use std::time::UNIX_EPOCH;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use bytes::BytesMut;
use memchr::memmem;
use tokio::io::{
    AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines, Stdin, Stdout, stdin, stdout,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};

use twitterstream::clock;

use crate::process::monotonic;

/// The process, as the measurement sees it. It ends when this is dropped.
pub struct NullDynamoDb {
    pub address: SocketAddr,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl NullDynamoDb {
    pub async fn start() -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--role", "null-dynamodb"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let orders = child.stdin.take().ok_or("no standard input")?;
        let output = child.stdout.take().ok_or("no standard output")?;
        let mut answers = BufReader::new(output).lines();
        let address = answers.next_line().await?.ok_or("it did not start")?.parse()?;
        Ok(Self { address, orders, answers, _child: child })
    }

    /// For `AWS_ENDPOINT_URL_DYNAMODB`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Counts anew, up to so many rows.
    pub async fn expect(&mut self, rows: u32) -> Result<(), Box<dyn Error>> {
        self.orders.write_all(format!("{rows}\n").as_bytes()).await?;
        self.answers.next_line().await?.ok_or("it does not listen")?;
        Ok(())
    }

    /// Waits for the first of them, or, asked again, for the last: when it came, in seconds of the system's
    /// monotonic clock. One row is both.
    pub async fn seen(&mut self) -> Result<f64, Box<dyn Error>> {
        Ok(self.answers.next_line().await?.ok_or("it has ended")?.parse()?)
    }
}

/// The rows of one order.
struct Count {
    expected: u32,
    came: u32,
    /// What every `PutItem` is answered.
    answer: Rc<[u8]>,
    /// When the first came, and when the last.
    seen: mpsc::UnboundedSender<f64>,
}

/// The process itself. It ends with its standard input.
pub fn serve() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut answers = stdout();
        answers.write_all(format!("{}\n", listener.local_addr()?).as_bytes()).await?;
        let (sender, seen) = mpsc::unbounded_channel();
        let count = Count { expected: 0, came: 0, answer: put(), seen: sender };
        let count = Rc::new(RefCell::new(count));
        let orders = take_orders(BufReader::new(stdin()).lines(), answers, seen, Rc::clone(&count));
        tokio::pin!(orders);
        loop {
            tokio::select! {
                ended = &mut orders => return ended,
                accepted = listener.accept() => {
                    let count = Rc::clone(&count);
                    // Whatever goes wrong with a connection, its client sees it end.
                    spawn_local(async move { drop(converse(accepted?.0, &count).await); Ok::<_, std::io::Error>(()) });
                }
            }
        }
    })
}

async fn take_orders(
    mut orders: Lines<BufReader<Stdin>>,
    mut answers: Stdout,
    mut seen: mpsc::UnboundedReceiver<f64>,
    count: Rc<RefCell<Count>>,
) -> Result<(), Box<dyn Error>> {
    loop {
        let answer = tokio::select! {
            order = orders.next_line() => {
                let Some(order) = order? else { return Ok(()) };
                let expected = order.parse()?;
                let mut count = count.borrow_mut();
                count.expected = expected;
                count.came = 0;
                count.answer = put();
                format!("expecting {expected}\n")
            }
            Some(when) = seen.recv() => format!("{when}\n"),
        };
        answers.write_all(answer.as_bytes()).await?;
        answers.flush().await?;
    }
}

/// Answers what comes on a connection, one request after the other.
async fn converse(mut socket: TcpStream, count: &RefCell<Count>) -> Result<(), Box<dyn Error>> {
    socket.set_nodelay(true)?;
    let mut read = BytesMut::with_capacity(8 * 1024);
    loop {
        let Some(request) = take_request(&mut read)? else {
            if socket.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
            continue;
        };
        // The worker asks at its start whether it may write, with a condition that never holds.
        if memmem::find(&request, b"attribute_exists(#user) AND").is_some() {
            socket.write_all(refused().as_bytes()).await?;
            continue;
        }
        let answer = count.borrow_mut().count();
        socket.write_all(&answer).await?;
    }
}

impl Count {
    fn count(&mut self) -> Rc<[u8]> {
        self.came += 1;
        if self.came == 1 || self.came == self.expected {
            // Who asked has gone where this fails, and the process goes with it.
            let _ = self.seen.send(monotonic());
        }
        Rc::clone(&self.answer)
    }
}

/// The next request, head and body, where all of it is there.
fn take_request(read: &mut BytesMut) -> Result<Option<BytesMut>, Box<dyn Error>> {
    let Some(end) = memmem::find(read, b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(read.get(..end).unwrap_or_default())?;
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let length = fields
        .into_iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(Ok(0), |(_, value)| value.trim().parse::<usize>())?;
    let whole = end + 4 + length;
    Ok((read.len() >= whole).then(|| read.split_to(whole)))
}

/// What DynamoDB says to a `PutItem`, head by head, checksum included.
fn put() -> Rc<[u8]> {
    answer("200 OK", "2745614147", "{}").into_bytes().into()
}

fn refused() -> String {
    let body = "{\"__type\":\"com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException\",\
                \"message\":\"The conditional request failed\"}";
    // The CRC-32 of this body.
    answer("400 Bad Request", "396270901", body)
}

fn answer(status: &str, crc: &str, body: &str) -> String {
    let seconds = clock::system()().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let date = DateTime::from_secs(seconds.try_into().unwrap_or_default());
    let date = date.fmt(Format::HttpDate).unwrap_or_default();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nServer: Server\r\nDate: {date}\r\n\
         Content-Type: application/x-amz-json-1.0\r\nContent-Length: {length}\r\n\
         Connection: keep-alive\r\n\
         x-amzn-RequestId: 0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ABCDEF\r\n\
         x-amz-crc32: {crc}\r\n\r\n{body}"
    )
}
