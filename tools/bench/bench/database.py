"""The one PostgreSQL that hotrow, the axum stack and pgbench share, each in its turn: with the settings that hotrow gives
to its private one (src/store/managed.rs), durable, on a socket file; and nothing vacuums in the midst of a turn, for that is
done between them. Knows the table; knows no server."""

import os
import pwd
import shutil
import signal

from .processes import Failed, until

SETTINGS = ["fsync=on", "synchronous_commit=on", "full_page_writes=on", "max_connections=300", "autovacuum=off"]


def user():
    """As root we must be somebody else: PostgreSQL refuses to run as root. None: nobody else."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class Database:
    def __init__(self, world, tools):
        self.world, self.tools = world, tools
        self.user = user()
        # A socket's path is to be short, the data are to be on a disk.
        self.socket_dir = world.folder("postgres")
        cluster = world.folder("cluster", on_disk=True)
        cluster.chmod(0o700)
        if self.user:
            shutil.chown(self.socket_dir, self.user)
            shutil.chown(cluster, self.user)
        initdb = world.start(
            "initdb",
            [tools.paths["initdb"], "--username=hotrow", "--encoding=UTF8", "--locale=C.UTF-8", "--lc-collate=C"]
            + ["--auth=trust", "--no-instructions", "-D", cluster],
            user=self.user,
        )
        if initdb.process.wait() != 0:
            raise SystemExit(f"initdb failed: {initdb.last_words()}")
        argv = [tools.paths["postgres"], "-D", cluster]
        for setting in ["listen_addresses=", f"unix_socket_directories={self.socket_dir}", *SETTINGS]:
            argv += ["-c", setting]
        self.server = world.start("postgres", argv, user=self.user, stop=signal.SIGINT, env={"LC_ALL": "C"})
        until(lambda: self._try("SELECT 1"), "PostgreSQL", self.server)

    def url(self, database="postgres"):
        return f"host={self.socket_dir} port=5432 user=hotrow dbname={database}"

    def sql(self, statement, database="postgres"):
        argv = [self.tools.paths["psql"], "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", self.url(database)]
        return self.world.run([*argv, "-c", statement], seconds=300).strip()

    def _try(self, statement):
        try:
            return bool(self.sql(statement))
        except Failed:
            return False

    def insert(self, prefix, count, value_bytes, database):
        """Rows with keys `prefix` and twelve digits, from 0 on."""
        self.sql(
            "INSERT INTO kv_store (key, value) "
            f"SELECT '{prefix}' || lpad(i::text, 12, '0'), rpad(i::text, {value_bytes}, 'v') "
            f"FROM generate_series(0, {count - 1}) AS i ON CONFLICT DO NOTHING",
            database,
        )

    def settle(self, case):
        """The same state for everyone: nothing left of what the one before has done."""
        self.sql("CHECKPOINT")
        if case.writes:
            # The first write of a page after a checkpoint puts the whole page into the log. That is over in a second
            # or two, but a turn is no longer: so it is done before. Every 16th row touches every page.
            self.sql(
                "UPDATE kv_store SET value = value WHERE key IN ("
                f"SELECT '{case.prefix}' || lpad(i::text, 12, '0') FROM generate_series(0, {case.keys - 1}, 16) AS i)",
                case.database,
            )
        self.sql("VACUUM ANALYZE kv_store", case.database)
