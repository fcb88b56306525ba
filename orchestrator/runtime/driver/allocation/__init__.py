"""Which request of a job starts next, and which ones the job's budget can afford.

What an open problem's next attempt is worth (`worth`) orders the requests that wait (`waiting`); a
budget of tokens or seconds is shared out among problems (`allowance`). Decisions only: the driver
starts and stops.
"""
