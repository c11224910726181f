#!/bin/sh
# A job that writes to a database (SQLite here), which refuses it once a later holder has been there:
#   semrun --name report -- examples/fenced-sql.sh FILE TEXT
exec python3 - "${SEMRUN_FENCING_TOKEN:?run this under semrun}" "$@" << 'END'
import sqlite3, sys, time

token, file, text = int(sys.argv[1]), sys.argv[2], sys.argv[3]
db = sqlite3.connect(file, isolation_level=None)
db.execute('CREATE TABLE IF NOT EXISTS fence (name TEXT PRIMARY KEY, token BIGINT NOT NULL)')
db.execute('CREATE TABLE IF NOT EXISTS report (text TEXT, token BIGINT)')

PASS = """
    INSERT INTO fence (name, token) VALUES ('report', ?)
    ON CONFLICT (name) DO UPDATE SET token = excluded.token WHERE fence.token <= excluded.token
"""

def fenced(*writes):
    """All of the writes or none, and none if the fence has seen a later holder."""
    db.execute('BEGIN IMMEDIATE')
    passed = db.execute(PASS, (token,)).rowcount == 1
    if passed:
        for write in writes:
            db.execute(*write)
    db.execute('COMMIT' if passed else 'ROLLBACK')
    if not passed:
        sys.exit(f'{text}: refused, token {token} is not the latest')

fenced()  # before anything is read: from here on, those before us are refused
print(f'{text}: begins with token {token}', flush=True)
time.sleep(2)  # the work
fenced(('INSERT INTO report VALUES (?, ?)', (text, token)))
print(f'{text}: written', flush=True)
END
