//! A real Chromium without a window (Debian's package chromium), driven by its own protocol over two pipes: what it
//! loads, what it shows, what it tells screen readers.

use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// For one answer: a page of thousands of lines may take seconds on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);

/// A browser with one page open.
pub struct Browser {
    child: Child,
    folder: PathBuf,
    to: File,
    from: Receiver<Value>,
    next: u64,
    session: Option<String>,
    /// What it told since the page was opened: loads, errors, dialogs.
    pub told: Vec<Value>,
}

impl Browser {
    pub fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("vsgpu-browser-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for pipe in ["in", "out"] {
            nix::unistd::mkfifo(&folder.join(pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        // The browser speaks on the third and fourth of its files; the rest of the line is constant.
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec "$@" 3<in 4>out"#, "sh", "chromium", "--headless=new", "--no-sandbox"]);
        command.args([
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--remote-debugging-pipe",
        ]);
        command.arg(format!("--user-data-dir={}", folder.join("profile").display())).arg("about:blank");
        let quiet =
            command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = quiet.spawn().unwrap();
        let to = File::options().write(true).open(folder.join("in")).unwrap();
        let out = File::open(folder.join("out")).unwrap();
        let (say, from) = channel();
        std::thread::spawn(move || {
            let mut out = BufReader::new(out);
            let mut message = vec![];
            while out.read_until(0, &mut message).is_ok_and(|n| n > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else { break };
                if say.send(value).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let mut this = Self { child, folder, to, from, next: 0, session: None, told: vec![] };
        let target = this.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached =
            this.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        this.session = attached["sessionId"].as_str().map(String::from);
        for domain in ["Page", "Runtime", "Network", "Log", "Accessibility", "DOM"] {
            this.call(&format!("{domain}.enable"), json!({}));
        }
        this
    }

    /// Asks it, and waits for the answer.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(message.to_string().as_bytes()).unwrap();
        self.to.write_all(&[0]).unwrap();
        loop {
            let mut said = self.from.recv_timeout(WITHIN).unwrap_or_else(|_| panic!("{method}: no answer"));
            if said["id"] == json!(self.next) {
                assert!(said["error"].is_null(), "{method}: {}", said["error"]);
                return said["result"].take();
            }
            self.told.push(said);
        }
    }

    /// Opens a page, and waits until all of it is there.
    pub fn open(&mut self, address: &str) {
        self.told.clear();
        let went = self.call("Page.navigate", json!({ "url": address }));
        assert!(went["errorText"].is_null(), "{address}: {}", went["errorText"]);
        while !self.told.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.from.recv_timeout(WITHIN).unwrap_or_else(|_| panic!("{address}: not loaded"));
            self.told.push(event);
        }
    }

    /// What an expression of JavaScript gives, asked from outside of the page.
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true });
        let mut said = self.call("Runtime.evaluate", params);
        assert!(said["exceptionDetails"].is_null(), "{}", said["exceptionDetails"]);
        said["result"]["value"].take()
    }

    /// A key is pressed and let go.
    pub fn press(&mut self, key: &str, code: u32) {
        for kind in ["keyDown", "keyUp"] {
            let text = if key == "Enter" && kind == "keyDown" { "\r" } else { "" };
            let params =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.call("Input.dispatchKeyEvent", params);
        }
    }

    /// How wide the window is, and whether colours are dark.
    pub fn as_seen(&mut self, width: u32, dark: bool) {
        let size = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// A page of this text at an address of its own, as a file.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        format!("file://{}", path.display())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
