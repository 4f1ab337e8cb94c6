//! Joins the files of a configuration to settings, and checks what one key says of another.
//!
//! Invariant: settings without mistakes name only pools that are there, and no name, address or key twice.

mod alert;
mod caller;
mod comfyui;
mod listener;
mod member;
mod pool;

pub(crate) use comfyui::set_shares;
pub(crate) use pool::default_policy;

use crate::callers::KeyHash;
use crate::error::{Mistake, Place, Problem, Report};
use crate::file::{
    AccessLogTable, AccessLogValue, AdminTable, ConfigFile, FilePath, LogTable, OtlpTable, Target,
    Text, Value,
};
use crate::inputs::Inputs;
use crate::keys::is_secret;
use crate::load::LoadedFile;
use crate::settings::{
    AccessLog, Address, AdminSettings, AfterCrash, Kind, LogSettings, OtlpHeaders, OtlpSettings,
    Settings, StateSettings,
};
use crate::source::{At, Source};
use crate::token::Token;
use core::time::Duration;
use std::collections::HashMap;
use std::path::PathBuf;

/// Joins files; the settings are usable only if the report is empty.
pub(crate) fn resolve(
    files: Vec<LoadedFile>,
    inputs: &dyn Inputs,
    report: &mut Report,
) -> Settings {
    let mut resolver = Resolver {
        inputs,
        report,
        pools: Vec::new(),
        addresses: Vec::new(),
        callers: Vec::new(),
        alerts: Vec::new(),
    };
    let mut settings = resolver.top(&files);
    let has_callers = files.iter().any(|file| !file.content.caller.is_empty());
    for file in &files {
        resolver.name_pools(&file.source, &file.content);
    }
    for LoadedFile { source, content } in files {
        let (mut pools, listen) = (content.pools, content.listen);
        resolver.alerts(&source, content.alert, &mut settings.alerts);
        resolver.callers(&source, content.caller, &mut settings.callers);
        resolver.prices(&source, content.price, &mut settings.prices);
        let at = At::Root.key("pools");
        for name in source.keys(&at) {
            if let Some(table) = pools.remove(&name) {
                let pool = resolver.pool(&source, &at.key(&name), &name, table);
                settings.pools.push(pool);
            }
        }
        let at = At::Root.key("listen");
        for (index, table) in listen.into_iter().enumerate() {
            let listener = resolver.listener(&source, &at.item(index), table, has_callers);
            settings.listeners.extend(listener);
        }
    }
    resolver.check_callers(&mut settings);
    resolver.check_alerts(&settings);
    settings
}

struct Resolver<'a> {
    inputs: &'a dyn Inputs,
    report: &'a mut Report,
    /// All pools, in the order of the files.
    pools: Vec<PoolName>,
    /// The addresses of listeners so far.
    addresses: Vec<(Address, Place)>,
    /// The names and keys of callers so far.
    callers: Vec<CallerName>,
    /// The names of alerts so far.
    alerts: Vec<(String, Place)>,
}

/// A caller with the place of its table.
#[derive(Debug)]
struct CallerName {
    name: String,
    key: KeyHash,
    place: Place,
}

#[derive(Debug)]
struct PoolName {
    name: String,
    kind: Kind,
    place: Place,
}

/// The longest path of a Unix socket in bytes, as Linux has it.
const MAX_SOCKET_PATH: usize = 107;

/// A value that only one file may set.
#[derive(Debug)]
struct Once<T>(Option<(T, Place)>);

impl<T> Once<T> {
    fn or(self, default: T) -> T {
        self.0.map_or(default, |(value, _)| value)
    }
}

impl Resolver<'_> {
    /// Joins the keys at the top of all files.
    fn top(&mut self, files: &[LoadedFile]) -> Settings {
        let (mut state, mut after_crash) = (Once::<PathBuf>(None), Once::<AfterCrash>(None));
        let (mut drain, mut access_log) = (Once::<Duration>(None), Once::<AccessLog>(None));
        let (mut admin, mut told) = (Once::<AdminSettings>(None), Once::<LogSettings>(None));
        let mut otlp = Once::<OtlpSettings>(None);
        for LoadedFile { source, content } in files {
            let path = |path: &Text<FilePath>| source.folder.join(&path.0.0);
            self.once(
                &mut state,
                content.state.as_ref().map(path),
                source,
                "state",
            );
            let crash = content.after_crash.map(|it| it.0);
            self.once(&mut after_crash, crash, source, "after_crash");
            self.once(&mut drain, content.drain.map(|it| it.0), source, "drain");
            let log = content
                .access_log
                .as_ref()
                .map(|log| access_log_of(source, log));
            self.once(&mut access_log, log, source, "access_log");
            let table = content
                .admin
                .as_ref()
                .map(|table| self.admin(source, table));
            self.once(&mut admin, table, source, "admin");
            let table = content.log.as_ref().map(|table| self.log(source, table));
            self.once(&mut told, table, source, "log");
            let table = content.otlp.as_ref().map(|table| self.otlp(source, table));
            self.once(&mut otlp, table, source, "otlp");
        }
        if let (None, Some((_, place))) = (&state.0, &after_crash.0) {
            let problem = "there is no state file; add state = \"FILE\", or remove this";
            self.report.add(Mistake {
                place: place.clone(),
                key: "after_crash".to_owned(),
                problem: Problem::Invalid(problem.to_owned()),
            });
        }
        if let Some(first) = files.first()
            && files.iter().all(|file| file.content.listen.is_empty())
        {
            let example = "[[listen]] with an address, what it serves, and a pool".to_owned();
            self.wrong(
                &first.source,
                &At::Root.key("listen"),
                Problem::Missing(example),
            );
        }
        let after_crash = after_crash.or(AfterCrash::default());
        Settings {
            state: state.0.map(|(path, _)| StateSettings { path, after_crash }),
            admin: admin.or(AdminSettings::default()),
            access_log: access_log.or(AccessLog::default()),
            log: told.or(LogSettings::default()),
            otlp: otlp.0.map(|(otlp, _)| otlp),
            alerts: Vec::new(),
            drain: drain.or(Settings::DRAIN),
            pools: Vec::new(),
            listeners: Vec::new(),
            callers: Vec::new(),
            prices: Vec::new(),
        }
    }

    fn once<T>(&mut self, slot: &mut Once<T>, value: Option<T>, source: &Source, key: &str) {
        let Some(value) = value else {
            return;
        };
        let at = At::Root.key(key);
        match &slot.0 {
            Some((_, first)) => {
                let problem = Problem::Duplicate(first.clone(), "set it in one file");
                self.wrong(source, &at, problem);
            }
            None => slot.0 = Some((value, source.place_at(&at))),
        }
    }

    fn admin(&mut self, source: &Source, table: &AdminTable) -> AdminSettings {
        let at = At::Root.key("admin");
        let listen = table.listen.as_ref();
        AdminSettings {
            listen: listen.map(|address| self.address(source, &at.key("listen"), &address.0)),
            token: self.token(source, &at.key("token_file"), table.token_file.as_ref()),
            open_on_loopback: false,
        }
    }

    fn log(&mut self, source: &Source, table: &LogTable) -> LogSettings {
        let at = At::Root.key("log");
        let at = at.key("targets");
        for target in table.targets.keys() {
            if let Err(misread) = Target::read(target) {
                self.wrong(source, &at.key(target), Problem::Invalid(misread.problem));
            }
        }
        table.build()
    }

    fn otlp(&mut self, source: &Source, table: &OtlpTable) -> OtlpSettings {
        let at = At::Root.key("otlp");
        let mut settings = table.build();
        if let Err(problem) = OtlpSettings::check_endpoint(&settings.endpoint) {
            let problem = Problem::Invalid(problem.to_owned());
            self.wrong(source, &at.key("endpoint"), problem);
        }
        if let Some(Text(path)) = &table.headers_file {
            let (name, text) = self.file(source, path);
            let headers = match text {
                Ok(text) => {
                    OtlpHeaders::of_file(&text, source.folder.join(&path.0)).map_err(|line| {
                        let problem =
                            format!("{name}: line {line} is no header field; write NAME: VALUE");
                        Problem::Invalid(problem)
                    })
                }
                Err(error) => Err(Problem::Unreadable(format!("cannot read {name}: {error}"))),
            };
            match headers {
                Ok(headers) => settings.headers = Some(headers),
                Err(problem) => self.wrong(source, &at.key("headers_file"), problem),
            }
        }
        settings
    }

    /// Names the pools of a file, so that listeners of any file find them.
    fn name_pools(&mut self, source: &Source, content: &ConfigFile) {
        let at = At::Root.key("pools");
        for name in source.keys(&at) {
            let at = at.key(&name);
            if !is_pool_name(&name) {
                let problem = "a pool's name is made of at most 64 letters, digits, - and _";
                self.wrong(source, &at, Problem::Invalid(problem.to_owned()));
            }
            if let Some(first) = self.pools.iter().find(|pool| pool.name == name) {
                let problem = Problem::Duplicate(first.place.clone(), "name it otherwise");
                self.wrong(source, &at, problem);
            }
            let table = content.pools.get(&name);
            // The schema requires the kind.
            let kind = table
                .and_then(|table| table.kind)
                .map_or(Kind::Http, |kind| kind.0);
            let place = source.place_at(&at);
            self.pools.push(PoolName { name, kind, place });
        }
    }

    /// Enters an address to listen at.
    fn address(&mut self, source: &Source, at: &At<'_>, address: &Address) -> Address {
        let (address, is_shared) = match address {
            Address::Tcp(address) => (Address::Tcp(*address), address.port() == 0),
            Address::Unix(path) => (Address::Unix(source.folder.join(path)), false),
        };
        if let Address::Unix(path) = &address
            && path.as_os_str().len() > MAX_SOCKET_PATH
        {
            let problem = format!("the path of a socket may have at most {MAX_SOCKET_PATH} bytes");
            self.wrong(source, at, Problem::Invalid(problem));
        }
        let known = self.addresses.iter().find(|(other, _)| *other == address);
        if let Some((_, first)) = known.filter(|_| !is_shared) {
            let problem = Problem::Duplicate(first.clone(), "listen at another address");
            self.wrong(source, at, problem);
        }
        self.addresses.push((address.clone(), source.place_at(at)));
        address
    }

    fn token(
        &mut self,
        source: &Source,
        at: &At<'_>,
        file: Option<&Text<FilePath>>,
    ) -> Option<Token> {
        let path = &file?.0;
        let (name, text) = self.file(source, path);
        let token = match text {
            Ok(text) => Token::of_file(&text, &source.folder.join(&path.0))
                .map_err(|error| Problem::Invalid(format!("{name}: {error}"))),
            Err(error) => {
                let advice =
                    "if there is none yet, write one with: (umask 77; openssl rand -hex 32 > FILE)";
                let problem = format!("cannot read {name}: {error}; {advice}");
                Err(Problem::Unreadable(problem))
            }
        };
        token
            .map_err(|problem| self.wrong(source, at, problem))
            .ok()
    }

    /// Reads a file of secrets; the name is for messages.
    fn file(&self, source: &Source, path: &FilePath) -> (String, Result<String, String>) {
        let is_secret = path.0.to_str().is_none_or(is_secret);
        let path = source.folder.join(&path.0);
        let name = if is_secret {
            "<hidden: looks like a secret>".to_owned()
        } else {
            path.display().to_string()
        };
        (name, self.inputs.file(&path))
    }

    fn wrong(&mut self, source: &Source, at: &At<'_>, problem: Problem) {
        self.report.add(source.mistake_at(at, problem));
    }
}

fn access_log_of(source: &Source, log: &AccessLogValue) -> AccessLog {
    let table = match log {
        AccessLogValue::Switch(false) => {
            return AccessLog {
                format: None,
                path: None,
            };
        }
        AccessLogValue::Switch(true) => &AccessLogTable::default(),
        AccessLogValue::Table(table) => table,
    };
    AccessLog {
        format: Some(table.format.0),
        path: table
            .path
            .as_ref()
            .map(|path| source.folder.join(&path.0.0)),
    }
}

fn is_pool_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=64).contains(&name.len()) && name.bytes().all(is_part)
}

/// Names that are taken, with their places.
type Names = HashMap<String, Place>;
